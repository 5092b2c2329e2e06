"""How a search scales with its workers: ``python -m benchmarks.executor`` (some minutes on two cores).

The features and scores of one search over the embedded zoo, in this process and on one and two worker processes of one
thread each, each from an empty cache; results that differ are an error. What k nodes would take is computed, and marked
so, from the seconds of the single tasks, which are measured in this process: the longest first, each to the worker that
is free, as the workers take them. Written to ``benchmarks/results/executor.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.common import embedded_zoo, publish
from datamodules import Digits
from reassembly.distributed import DistributedSearch
from reassembly.pipeline import Search
from reassembly.result import SearchResult
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings
from zoo.arguments import Parser, positive, run
from zoo.executors.pool import Pool
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import Outcome, perform, unpacked
from zoo.storage.store import Store

CORES_PER_NODE = 8
COMPUTED = (2, CORES_PER_NODE, 2 * CORES_PER_NODE, 4 * CORES_PER_NODE)
READING = (
    "features and scores of one search; speed-up over one process. Rows of nodes are computed from the single tasks, "
    f"{CORES_PER_NODE} workers a node, without the seconds in which workers start."
)


class MeasuredPool(Pool):
    """Does the tasks of another pool in this process, as one worker would, and keeps how long each takes, by round."""

    num_workers = CORES_PER_NODE

    def __init__(self, pool: Pool) -> None:
        self.settings, self.num_threads, self.packed_work = pool.settings, pool.num_threads, pool.packed_work
        self.rounds: list[list[float]] = []

    def outcomes(self, tasks: Sequence[Any], level: int) -> Iterator[tuple[int, Outcome]]:
        work = unpacked(self.packed_work)
        self.rounds.append([])
        for index, task in enumerate(tasks):
            start = time.perf_counter()
            outcome = perform(work, task, level)
            self.rounds[-1].append(time.perf_counter() - start)
            yield index, outcome

    def close(self) -> None:
        pass


def makespan(seconds: Sequence[float], num_workers: int) -> float:
    """When the last of the tasks ends that are taken in their order, each by the worker that is free first."""
    free = [0.0] * num_workers
    for length in seconds:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def searched(make: Callable[..., Search], num_images: int) -> tuple[float, Search, SearchResult]:
    """Seconds of features and scores of a search without anything stored."""
    settings = SearchSettings(
        partition=PartitionSettings(num_blocks=3),
        budget=Budget(max_params=200_000),
        proxy=ProxySettings(num_images=num_images),
    )
    with tempfile.TemporaryDirectory() as folder:
        search = make(embedded_zoo(), Digits(), settings, store=Store(folder), seed=0)
        found = search.run()
    return found.seconds["features"] + found.seconds["scores"], search, found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=positive, nargs="*", default=[1, 2], help="none: computed rows, not kept")
    parser.add_argument("--images", type=positive, default=300)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.workers:
        alone, _, expected = searched(Search, options.images)
        rows.append({"where": "this process", "workers": 1, "seconds": alone, "speed-up": 1.0, "how": "measured"})
    for number in options.workers:
        executor = ExecutorSettings("processes", number)
        seconds, _, found = searched(partial(DistributedSearch, executor=executor), options.images)
        if found.candidates != expected.candidates:
            raise RuntimeError(f"{number} workers find something else")
        told = {"where": "worker processes", "workers": number, "seconds": seconds, "speed-up": alone / seconds}
        rows.append({**told, "how": "measured"})
    whole, search, _ = searched(_measured, options.images)
    rounds = search.pool.rounds
    rest = max(0.0, whole - sum(map(sum, rounds)))
    for workers in COMPUTED:
        seconds = rest + sum(makespan(lengths, workers) for lengths in rounds)
        told = {"where": f"{max(1, workers // CORES_PER_NODE)} nodes", "workers": workers}
        rows.append({**told, "seconds": seconds, "speed-up": whole / seconds, "how": "computed"})
    if options.workers:
        print(publish("executor", READING, rows))
        return
    for row in rows:
        print(*row.values(), sep="\t")


def _measured(*arguments: Any, **options: Any) -> DistributedSearch:
    search = DistributedSearch(*arguments, executor=ExecutorSettings("processes", 2), **options)
    search.pool = MeasuredPool(search.pool)
    return search


if __name__ == "__main__":
    run(main)
