"""Exact scores of many candidates, best first; of very many, those that are worth it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.block_cache import BlockCache
from reassembly.home_features import HomeFeatures
from reassembly.prefix_tree import PrefixTree, ScoringData
from reassembly.proxies import find_proxy
from reassembly.settings import ProxySettings
from reassembly.shortlist import Path, shortlist
from zoo.blueprint import AdapterSpec
from zoo.chain import Chain

log = logging.getLogger(__name__)

Scores = Mapping[Candidate, Mapping[str, float]]


def score_candidates(
    candidates: Iterable[Candidate],
    chains: Mapping[str, Chain],
    data: ScoringData,
    settings: ProxySettings | None = None,
    adapter: AdapterSpec | None = None,
    seed: int = 0,
) -> list[ScoredCandidate]:
    """Scores candidates without training and sorts them, best first.

    Networks are loaded one at a time, blocks kept as far as memory goes.

    Args:
        candidates: What to score.
        chains: Of every network they name; left as they are.
        data: What to score them on.
        settings: Proxies, draws, batch size; ``num_images`` is for the caller, who gives the images.
        adapter: Its kind and, for closed-form scores, its kernel size; random adapters are 1x1, since a random 3x3 only
            blurs.
        seed: Of random adapters and of the ``random`` control.

    Returns:
        The scored candidates, all but for ``settings.max_scored``, in the order of the proxy ``settings.name``; those
        that deserved no second draw (``settings.max_redrawn``) after all others. Ties go to fewer MACs, then fewer
        parameters.
    """
    settings, adapter = settings or ProxySettings(), adapter or AdapterSpec()
    proxy, candidates = find_proxy(settings.name), list(candidates)
    sign = -1 if proxy.higher_is_better else 1
    home = HomeFeatures(BlockCache(chains), data.images_for, adapter.kind, settings.batch_size)

    def walk(some: Iterable[Candidate], *, known: Scores | None = None, **changes) -> list[ScoredCandidate]:
        tree = PrefixTree(some, data, home, replace(settings, **changes), adapter, seed, known)
        return sorted(tree.scores(), key=order)

    def order(entry: ScoredCandidate) -> tuple:
        c = entry.candidate
        return sign * entry.scores[proxy.name], c.macs, c.num_params, c.composition

    def score_paths(paths: Iterable[Path]) -> dict[Path, float]:
        scored = walk((Candidate(path, "assembly", 0, 0) for path in paths), also=(), num_draws=1)
        return {entry.candidate.blocks: -sign * entry.scores[proxy.name] for entry in scored}

    if not proxy.needs:
        return walk(candidates)
    if settings.max_scored is not None and settings.max_scored < len(candidates):
        num_candidates, candidates = len(candidates), shortlist(candidates, settings.max_scored, score_paths)
        log.info("scoring the %d most promising of %d candidates", len(candidates), num_candidates)
    limit, several = settings.max_redrawn, settings.adapters == "random" and settings.num_draws > 1
    if limit is None or not several or sum(c.kind == "assembly" for c in candidates) <= limit:
        return walk(candidates)
    once = walk(candidates, num_draws=1)
    assemblies = [entry for entry in once if entry.candidate.kind == "assembly"]
    known = {entry.candidate: entry.scores for entry in assemblies[:limit]}
    final = walk(known, known=known)
    final += [entry for entry in once if entry.candidate.kind != "assembly"]
    return sorted(final, key=order) + assemblies[limit:]
