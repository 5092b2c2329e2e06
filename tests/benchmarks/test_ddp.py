"""Processes that tune together, as the benchmark starts them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ddp import run_in_processes, work


def test_finalists_tuned_in_three_processes_are_those_of_one(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    work(tmp_path / "1", ["finalists"], 1, "cpu", "ddp", resume=False)
    assert run_in_processes(tmp_path, 3, names=["finalists"])["finalists"][0] < 1e-5
