"""A search on several workers finds what one in one process finds, bit for bit, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import Digits
from reassembly.distributed import DistributedSearch, subtrees
from reassembly.pipeline import Search, SearchResult
from reassembly.prefix_tree import walked_blocks
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.blueprint import to_text
from zoo.errors import UserError
from zoo.executors.pool import Pool
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import Outcome, perform, unpacked
from zoo.registry import Zoo, read_zoo
from zoo.storage.store import Store

NETWORKS = ("resnet_digits", "vit_digits", "mixer_inverted")
SETTINGS = SearchSettings(
    similarity=SimilaritySettings(num_probe_images=24, batch_size=None),
    partition=PartitionSettings(num_blocks=2, num_starts=2, max_bound_steps=50),
    budget=Budget(max_params=250_000),
    proxy=ProxySettings(num_draws=2, num_images=24, also=("logme", "random"), max_scored=1, max_redrawn=2),
)
KINDS = ["processes", pytest.param("ray", marks=pytest.mark.launchers)]


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    embedded = read_zoo("embedded")
    return Zoo("three", [embedded[name] for name in NETWORKS])


def data() -> Digits:
    return Digits(num_train=24, num_validation=30, num_test=30)


@pytest.fixture(scope="module")
def serial(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    store = Store(tmp_path_factory.mktemp("serial"))
    return Search(zoo, data(), SETTINGS, store=store, seed=0).run()


def distributed(kind: str, zoo: Zoo, root: Path, settings: SearchSettings = SETTINGS) -> DistributedSearch:
    executor = ExecutorSettings(kind, 2)
    return DistributedSearch(zoo, data(), settings, executor=executor, store=Store(root), seed=0)


@pytest.fixture
def killed() -> Iterator[list[int]]:
    """Kills the first worker process that computes something; gives those that were killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not killed and not over.wait(0.02):
            for process in workers()[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    watcher = threading.Thread(target=kill)
    watcher.start()
    yield killed
    over.set()
    watcher.join()


def workers() -> list[int]:
    """Processes that compute below this one: spawned ones, or those of a Ray that calls them by their task."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode()
            parents = [int(line.split()[1]) for line in (folder / "status").read_text().splitlines() if "PPid" in line]
        except (OSError, ValueError):
            continue
        if (parents == [os.getpid()] and "spawn_main" in command) or command.startswith("ray::_perform"):
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_workers_find_the_same_bit_for_bit_though_some_are_killed(
    kind: str, zoo: Zoo, serial: SearchResult, tmp_path: Path, killed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    search = distributed(kind, zoo, tmp_path)
    found = search.run()
    assert len(killed) == 1
    assert "its worker was lost" in caplog.text
    assert found.candidates == serial.candidates
    assert to_text(found.blueprint) == to_text(serial.blueprint)
    assert torch.equal(found.similarity, serial.similarity)
    assert {"features", "seams", "subtrees", "scores"} <= search.store.misses.keys()
    assert not {"features", "seams", "scores"} & set(found.reused)
    again = distributed(kind, zoo, tmp_path)
    assert again.run().candidates == serial.candidates
    assert again.store.misses == {}  # and no worker was started


class InlinePool(Pool):
    """Does in this process what workers do in theirs."""

    num_workers = 2

    def outcomes(self, tasks: Sequence[Any], level: int) -> Iterator[tuple[int, Outcome]]:
        work = unpacked(self.packed_work)
        yield from ((index, perform(work, task, level)) for index, task in enumerate(tasks))

    def close(self) -> None:
        pass


def test_what_a_worker_refuses_is_one_line_or_left_out(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.executors.opening.ProcessPool", InlinePool)
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    entry = zoo["vit_digits"]
    broken = replace(entry, name="broken", weights=replace(entry.weights, file=str(tmp_path / "weights.pth")))
    entries = [zoo["resnet_digits"], broken]
    with pytest.raises(UserError, match=r"broken.*weights.pth"):
        distributed("processes", Zoo("bad", entries), tmp_path / "a").whole_network(None)
    search = distributed("processes", Zoo("bad", entries, leave_out="unfit"), tmp_path / "a")
    search.whole_network(None)
    assert list(search.zoo) == ["resnet_digits"]


def test_subtrees_hold_every_candidate_once_and_begin_alike(serial: SearchResult) -> None:
    candidates = [entry.candidate for entry in serial.candidates]
    for min_parts, num_alike in ((1, 1), (100, 2)):
        parts = subtrees(candidates, min_parts)
        assert sorted(map(repr, candidates)) == sorted(repr(candidate) for part in parts for candidate in part)
        assert all(len({walked_blocks(candidate)[:num_alike] for candidate in part}) == 1 for part in parts)
    assert len(subtrees(candidates, 1)) < len(subtrees(candidates, 100))
