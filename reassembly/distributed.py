"""The search with its tasks on many workers: features of a network, scores of the seams behind a network, scores of a
subtree of candidates.

What workers compute they put into the store, as the search itself would, under the same keys; the search then goes its
own way and finds it there. So the result is that of the search in one process, bit for bit, and what was computed
before an interruption is kept. The workers see the same store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datamodules import ImageDataModule
from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.candidates import content_digest
from reassembly.enumeration import PathCosts
from reassembly.features import NetworkFeatures
from reassembly.pipeline import Search, Tune
from reassembly.prefix_tree import walked_blocks
from reassembly.result import SearchResult
from reassembly.scoring import Scorer, Scores
from reassembly.seams import SeamRequest
from reassembly.settings import ProxySettings, SearchSettings
from zoo.blueprint import AdapterSpec, BlockSpec, ReassemblyBlueprint
from zoo.devices import CPU, Placement
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.executors.opening import open_pool
from zoo.executors.settings import ExecutorSettings
from zoo.progress import progress
from zoo.registry import Zoo, require_files
from zoo.storage.store import StageResult, Store


@dataclass(frozen=True)
class SearchWork:
    """What a worker needs to be a search of its own; called with a task."""

    zoo: Zoo
    data: ImageDataModule
    settings: SearchSettings
    root: Path
    rebuild_damaged: bool
    seed: int
    placement: Placement
    _made: list[Search] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self, task: Task) -> Any:
        """Does a task; networks and blocks that it loaded stay for the next."""
        if not self._made:
            store = Store(self.root, rebuild_damaged=self.rebuild_damaged)
            self._made.append(
                Search(self.zoo, self.data, self.settings, store=store, seed=self.seed, placement=self.placement)
            )
        return task.perform(self._made[0])


class Task:
    """Something to compute and store; its text names it in messages."""

    def perform(self, search: Search) -> Any:
        """Computes it in a worker's search."""
        raise NotImplementedError


@dataclass(frozen=True)
class FeaturesOf(Task):
    """The features of a network."""

    name: str

    def __str__(self) -> str:
        return f"features of {self.name}"

    def perform(self, search: Search) -> None:
        search.extract_one(search.zoo[self.name])


@dataclass(frozen=True)
class SeamsBehind(Task):
    """The scores of the seams behind the blocks of a network."""

    request: SeamRequest
    origin: str

    def __str__(self) -> str:
        return f"scores of the seams behind {self.origin}"

    def perform(self, search: Search) -> None:
        search.seam_values(self.request, [self.origin])


@dataclass(frozen=True)
class Subtree(Task):
    """The scores of candidates that begin alike, as ``Scorer.score_tree`` gives them.

    Attributes:
        judge: The proxy that the search or the baseline is decided by.
        candidates: Of the subtree.
        settings: Of this walk over it.
        adapter: See ``settings``.
        known: See ``PrefixTree``, in the order of the candidates.
        inputs: What the scores depend on beside all this, plain.
    """

    judge: str
    candidates: tuple[Candidate, ...]
    settings: ProxySettings
    adapter: AdapterSpec
    known: tuple[Mapping[str, float], ...] | None
    inputs: Any

    def __str__(self) -> str:
        return f"scores of {len(self.candidates)} candidates ({self.candidates[0].composition} ...)"

    def perform(self, search: Search) -> list[Any]:
        """Gives, in the order of the walk, the index of a candidate, its scores and the number of draws."""
        places = {candidate: place for place, candidate in enumerate(self.candidates)}
        known = None if self.known is None else dict(zip(self.candidates, self.known, strict=True))

        def compute() -> StageResult:
            found = search.scorer(self.judge).score_tree(self.candidates, self.settings, self.adapter, known)
            return StageResult(values=[[places[e.candidate], dict(e.scores), e.num_draws] for e in found])

        inputs = [self.inputs, content_digest(self.candidates), self.settings, self.adapter, self.known]
        return search.store.fetch("subtrees", inputs, compute).values


def subtrees(candidates: Sequence[Candidate], min_parts: int) -> list[tuple[Candidate, ...]]:
    """The candidates by their first block, in the order of the walk over them all; by their first two, where the first
    alone would give fewer than ``min_parts``."""
    parts: dict[BlockSpec, dict[BlockSpec | None, list[Candidate]]] = {}
    for candidate in candidates:
        first, *rest = walked_blocks(candidate)
        following = parts.setdefault(first, {None: []})
        following.setdefault(rest[0] if rest else None, []).append(candidate)
    if len(parts) >= min_parts:
        return [tuple(c for part in following.values() for c in part) for following in parts.values()]
    return [tuple(part) for following in parts.values() for part in following.values() if part]


class DistributedSearch(Search):
    """See ``Search``.

    Args:
        executor: The workers.
        zoo: As of ``Search``, likewise the others.
    """

    def __init__(
        self,
        zoo: Zoo,
        data: ImageDataModule,
        settings: SearchSettings,
        *,
        executor: ExecutorSettings,
        store: Store,
        seed: int,
        placement: Placement = CPU,
    ) -> None:
        super().__init__(zoo, data, settings, store=store, seed=seed, placement=placement)
        on_gpu = executor.name == "ray" and placement.device.type == "cuda"
        work = SearchWork(zoo, data, settings, store.root.absolute(), store.rebuild_damaged, seed, placement)
        self.pool = open_pool(executor, work, num_gpus_per_task=int(on_gpu))
        self._refused: dict[str, UserError] = {}
        self._keys: dict[str, str] = {}

    def run(self, tune: Tune | None = None, max_epochs: int | None = None) -> SearchResult:
        with self.pool:
            return super().run(tune, max_epochs)

    def whole_network(self, name: str | None, select: str | None = None) -> ReassemblyBlueprint:
        with self.pool:
            return super().whole_network(name, select)

    def extract_one(self, entry: ZooEntry) -> NetworkFeatures:
        if entry.name in self._refused:
            raise self._refused[entry.name]
        network = super().extract_one(entry)
        self._keys[entry.name] = network.key
        return network

    def _extract(self, min_blocks: int = 1) -> list[NetworkFeatures]:
        require_files(self.zoo)
        missing = [FeaturesOf(name) for name in self.zoo if not self._has_features(name)]
        found = self._compute("features", "features of networks", missing)
        self._refused = {missing[i].name: told for i, told in found.items() if isinstance(told, UserError)}
        for name in (task.name for task in missing if task.name not in self._refused):
            self._require_shared(name)
        return super()._extract(min_blocks)

    def _require_shared(self, name: str) -> None:
        """Refuses a store of workers that is not the one of this process."""
        if not self._has_features(name) and os.access(self.store.root, os.W_OK):
            raise UserError(
                f"cache.root={self.store.root}: the features of {name} that a worker wrote there are not to be seen "
                "here: type cache.root= a directory that all machines share, and have the same version of this "
                "project on all of them"
            )

    def seam_values(self, request: SeamRequest, origins: Sequence[str]) -> PathCosts:
        missing = [name for name in origins if not self.store.holds("seams", request.store_inputs(name))]
        _raise_first(self._compute("seams", "scores of seams", [SeamsBehind(request, name) for name in missing]))
        return super().seam_values(request, origins)

    def _make_scorer(self, judge: str) -> Scorer:
        scorer = super()._make_scorer(judge)
        scorer.elsewhere = partial(self._score_tree, judge)
        return scorer

    def _score_tree(
        self,
        judge: str,
        candidates: Sequence[Candidate],
        settings: ProxySettings,
        adapter: AdapterSpec,
        known: Scores | None = None,
    ) -> list[ScoredCandidate]:
        def task(part: tuple[Candidate, ...]) -> Subtree:
            names = sorted({block.network for candidate in part for block in candidate.blocks})
            inputs = [{name: self._keys[name] for name in names}, self._data_key(), self.seed]
            told = None if known is None else tuple(known[candidate] for candidate in part)
            return Subtree(judge, part, settings, adapter, told, inputs)

        parts = subtrees(candidates, 2 * self.pool.num_workers)
        found = self._compute("subtrees", "scores of candidates", [*map(task, parts)], [len(part) for part in parts])
        _raise_first(found)
        rows = [(part[place], *told) for n, part in enumerate(parts) for place, *told in found[n]]
        return [ScoredCandidate(*row) for row in rows]

    def _compute(
        self, stage: str, what: str, tasks: Sequence[Task], sizes: Sequence[int] | None = None
    ) -> dict[int, Any]:
        """What the tasks gave, by their index; the longest begin first."""
        sizes = sizes or [1] * len(tasks)
        order = sorted(range(len(tasks)), key=lambda index: -sizes[index])
        found: dict[int, Any] = {}
        if tasks:
            self.store.misses[stage] = self.store.misses.get(stage, 0) + len(tasks)
            with progress(what, sum(sizes)) as advance:
                for place, result in self.pool.run([tasks[index] for index in order]):
                    found[order[place]] = result
                    advance(sizes[order[place]])
        return found


def _raise_first(found: Mapping[int, Any]) -> None:
    for index in sorted(found):
        if isinstance(found[index], UserError):
            raise found[index]
