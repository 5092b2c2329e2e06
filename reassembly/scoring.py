"""Exact scores of many candidates, best first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from reassembly.assembly import Candidate, ScoredCandidate, split
from reassembly.block_cache import BlockCache
from reassembly.home_features import HomeFeatures
from reassembly.ledger import ScoreLedger
from reassembly.prefix_tree import PrefixTree, ScoringData
from reassembly.proxies import Proxy, find_proxy
from reassembly.settings import ProxySettings
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain
from zoo.errors import UserError

log = logging.getLogger(__name__)


class Scorer:
    """Scores compositions without training; blocks and what they receive at home are kept, as far as memory goes.

    Args:
        chains: Of every network they name; left as they are.
        data: What to score them on.
        settings: Proxies, draws, batch size; ``num_images`` is for the caller, who gives the images.
        adapter: Its kind and, for closed-form scores, its kernel size; random adapters are 1x1, since a random 3x3 only
            blurs.
        seed: Of random adapters and of the ``random`` control.

    Attributes:
        elsewhere: Does a walk as ``score_tree`` does, on workers; None walks here. What needs no network is done here.
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
        self.elsewhere: Callable[..., list[ScoredCandidate]] | None = None
        _check_labels(data, map(find_proxy, (self.settings.name, *self.settings.also)))
        self.proxy = find_proxy(self.settings.name)
        self.home = HomeFeatures(
            BlockCache(chains), data.images_for, self.adapter.kind, self.settings.batch_size, data.precision
        )

    def scores(self, candidates: Iterable[Candidate], ledger: ScoreLedger | None = None) -> list[ScoredCandidate]:
        """The candidates in the order of the proxy, best first; what a ledger knows is not computed.

        Those that deserved no second draw (``settings.max_redrawn``) come after all others. Ties go to fewer MACs, then
        fewer parameters. Proxies that are scored behind adapters of their own kind have a walk to themselves.
        """
        candidates = list(candidates)
        score_tree = self.score_tree if ledger is None else partial(ledger.scores, self.score_tree)
        found, *others = [walk.scores(candidates) for walk in self._walks(score_tree)]
        more = {entry.candidate: entry.scores for entry in (entry for entries in others for entry in entries)}
        return [replace(entry, scores={**entry.scores, **more.get(entry.candidate, {})}) for entry in found]

    def path_scores(
        self, paths: Iterable[tuple[BlockSpec, ...]], cuts: Mapping[str, Sequence[int]] | None = None
    ) -> dict[tuple[BlockSpec, ...], float]:
        """The scores of paths of blocks by one draw of their adapters; higher is better, whatever the proxy.

        Args:
            paths: Blocks in series.
            cuts: By network, where its blocks begin and end: a run of several is scored as these.
        """
        cuts, walk = cuts or {}, next(iter(self._walks(self.score_tree)))
        blocks = {tuple(piece for block in path for piece in split(block, cuts)): path for path in paths}
        scored = walk.run([Candidate(pieces, "assembly", 0, 0) for pieces in blocks], also=(), num_draws=1)
        return {blocks[entry.candidate.blocks]: self.worth(entry) for entry in scored}

    def worth(self, entry: ScoredCandidate) -> float:
        """A candidate's score, turned so that higher is better."""
        return _worth(self.proxy, entry)

    def _walks(self, score_tree: Callable[..., list[ScoredCandidate]]) -> Iterator[_Walk]:
        """One for the proxies that are scored behind adapters as the leading one is, another for the others."""
        settings = self.settings
        proxies = [find_proxy(name) for name in dict.fromkeys((settings.name, *settings.also))]
        alike = [p for p in proxies if p.on_all_cuts == self.proxy.on_all_cuts or not p.needs]
        for group in (alike, [proxy for proxy in proxies if proxy not in alike]):
            if group:
                leading, *also = (proxy.name for proxy in group)
                own, adapter = replace(settings, name=leading, also=tuple(also)), self.adapter
                if group[0].on_all_cuts:
                    own, adapter = replace(own, adapters="closed_form"), replace(adapter, kernel_size=1)
                yield _Walk(own, adapter, group[0], score_tree)

    def score_tree(
        self,
        candidates: Sequence[Candidate],
        settings: ProxySettings,
        adapter: AdapterSpec,
        known: Scores | None = None,
    ) -> list[ScoredCandidate]:
        """The candidates with their scores in the order of one walk over their tree; see ``PrefixTree``."""
        if self.elsewhere is not None and any(find_proxy(name).needs for name in (settings.name, *settings.also)):
            return self.elsewhere(candidates, settings, adapter, known)
        return list(PrefixTree(candidates, self.data, self.home, settings, adapter, self.seed, known).scores())


@dataclass(frozen=True)
class _Walk:
    """Scores behind one kind of adapters; attributes as ``Scorer``'s, of these proxies alone."""

    settings: ProxySettings
    adapter: AdapterSpec
    proxy: Proxy
    score_tree: Callable[..., list[ScoredCandidate]]

    def scores(self, candidates: Sequence[Candidate]) -> list[ScoredCandidate]:
        """The candidates in the order of the leading proxy."""
        limit = self.settings.max_redrawn
        several = self.settings.adapters == "random" and self.settings.num_draws > 1 and bool(self.proxy.needs)
        if limit is None or not several or sum(c.kind == "assembly" for c in candidates) <= limit:
            return self.run(candidates)
        once = self.run(candidates, num_draws=1)
        assemblies = [entry for entry in once if entry.candidate.kind == "assembly"]
        known = {entry.candidate: entry.scores for entry in assemblies[:limit]}
        final = self.run(known, known=known)
        final += [entry for entry in once if entry.candidate.kind != "assembly"]
        return sorted(final, key=self._order) + assemblies[limit:]

    def run(
        self, candidates: Iterable[Candidate], *, known: Scores | None = None, **changes: Any
    ) -> list[ScoredCandidate]:
        """One walk over the tree of these candidates, with other settings for it."""
        found = self.score_tree(list(candidates), replace(self.settings, **changes), self.adapter, known)
        return sorted(found, key=self._order)

    def _order(self, entry: ScoredCandidate) -> tuple:
        c = entry.candidate
        return -_worth(self.proxy, entry), c.macs, c.num_params, c.composition


def _worth(proxy: Proxy, entry: ScoredCandidate) -> float:
    score = entry.scores[proxy.name]
    return score if proxy.higher_is_better else -score


def _check_labels(data: ScoringData, proxies: Iterable[Proxy]) -> None:
    """Refuses, or warns of, images of which nothing can be left out, for proxies that do so.

    Raises:
        UserError: No two images are of one class.
    """
    if not any(proxy.leaves_one_out for proxy in proxies):
        return
    counts = torch.bincount(data.labels, minlength=data.num_classes)
    told = f"{len(data.labels)} images score the candidates"
    advice = "give more images (dataset.num_train, if it has that), raise proxy.num_images, or type proxy=naswot"
    if len(counts) and counts.max() < 2:
        raise UserError(f"{told}, no two of one class: a score by leave-one-out says nothing; {advice}")
    if few := int((counts < 2).sum()):
        log.warning("%s: %d of %d classes have fewer than two; %s", told, few, data.num_classes, advice)


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
