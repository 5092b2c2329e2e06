"""Exact scores of many candidates, best first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.block_cache import BlockCache
from reassembly.home_features import HomeFeatures
from reassembly.prefix_tree import PrefixTree, ScoringData
from reassembly.proxies import find_proxy
from reassembly.settings import ProxySettings
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain


class Scorer:
    """Scores compositions without training; blocks and what they receive at home are kept, as far as memory goes.

    Args:
        chains: Of every network they name; left as they are.
        data: What to score them on.
        settings: Proxies, draws, batch size; ``num_images`` is for the caller, who gives the images.
        adapter: Its kind and, for closed-form scores, its kernel size; random adapters are 1x1, since a random 3x3 only
            blurs.
        seed: Of random adapters and of the ``random`` control.
    """

    def __init__(
        self,
        chains: Mapping[str, Chain],
        data: ScoringData,
        settings: ProxySettings | None = None,
        adapter: AdapterSpec | None = None,
        seed: int = 0,
    ) -> None:
        self.settings, self.adapter = settings or ProxySettings(), adapter or AdapterSpec()
        self.data, self.seed = data, seed
        self.proxy = find_proxy(self.settings.name)
        self.home = HomeFeatures(BlockCache(chains), data.images_for, self.adapter.kind, self.settings.batch_size)

    def scores(self, candidates: Iterable[Candidate]) -> list[ScoredCandidate]:
        """The candidates in the order of the proxy, best first.

        Those that deserved no second draw (``settings.max_redrawn``) come after all others. Ties go to fewer MACs, then
        fewer parameters.
        """
        candidates, limit = list(candidates), self.settings.max_redrawn
        several = self.settings.adapters == "random" and self.settings.num_draws > 1 and bool(self.proxy.needs)
        if limit is None or not several or sum(c.kind == "assembly" for c in candidates) <= limit:
            return self._walk(candidates)
        once = self._walk(candidates, num_draws=1)
        assemblies = [entry for entry in once if entry.candidate.kind == "assembly"]
        known = {entry.candidate: entry.scores for entry in assemblies[:limit]}
        final = self._walk(known, known=known)
        final += [entry for entry in once if entry.candidate.kind != "assembly"]
        return sorted(final, key=self._order) + assemblies[limit:]

    def path_scores(self, paths: Iterable[tuple[BlockSpec, ...]]) -> dict[tuple[BlockSpec, ...], float]:
        """The scores of paths of blocks by one draw of their adapters; higher is better, whatever the proxy."""
        scored = self._walk((Candidate(path, "assembly", 0, 0) for path in paths), also=(), num_draws=1)
        return {entry.candidate.blocks: self.worth(entry) for entry in scored}

    def worth(self, entry: ScoredCandidate) -> float:
        """A candidate's score, turned so that higher is better."""
        score = entry.scores[self.proxy.name]
        return score if self.proxy.higher_is_better else -score

    def _walk(
        self, candidates: Iterable[Candidate], *, known: Scores | None = None, **changes: Any
    ) -> list[ScoredCandidate]:
        settings = replace(self.settings, **changes)
        tree = PrefixTree(candidates, self.data, self.home, settings, self.adapter, self.seed, known)
        return sorted(tree.scores(), key=self._order)

    def _order(self, entry: ScoredCandidate) -> tuple:
        c = entry.candidate
        return -self.worth(entry), c.macs, c.num_params, c.composition


Scores = Mapping[Candidate, Mapping[str, float]]


def score_candidates(
    candidates: Iterable[Candidate],
    chains: Mapping[str, Chain],
    data: ScoringData,
    settings: ProxySettings | None = None,
    adapter: AdapterSpec | None = None,
    seed: int = 0,
) -> list[ScoredCandidate]:
    """``Scorer(...).scores(candidates)``, for those who score once."""
    return Scorer(chains, data, settings, adapter, seed).scores(candidates)
