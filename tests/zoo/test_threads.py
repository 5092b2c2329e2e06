"""Threads: as many as there are cores to run on, asleep while they wait, and as the user says where the user says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import threads

NAMES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "HUOZI_NUM_THREADS", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)


def cores(monkeypatch: pytest.MonkeyPatch, affinity: int, quotas: list[float]) -> None:
    monkeypatch.setattr(threads, "num_cores", lambda: affinity)
    monkeypatch.setattr(threads, "_quotas", lambda: quotas)


@pytest.mark.parametrize(
    ("affinity", "quotas", "num_processes", "expected"),
    [
        (8, [], 1, None),  # torch counts them itself
        (64, [2.0], 1, "2"),
        (64, [16.0, 3.5], 1, "4"),
        (4, [0.2], 1, "1"),
        (8, [], 4, "2"),
        (2, [], 4, "1"),
        (2, [16.0], 1, None),
    ],
)
def test_there_are_no_more_threads_than_free_cores(monkeypatch, affinity, quotas, num_processes, expected):
    cores(monkeypatch, affinity, quotas)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    threads.prepare(num_processes)
    assert os.environ.get("OMP_NUM_THREADS") == expected
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_the_user_has_set_stays(monkeypatch):
    cores(monkeypatch, 64, [2.0])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.prepare(4)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")


def test_a_further_process_of_a_training_takes_the_share_that_the_first_one_chose(monkeypatch):
    cores(monkeypatch, 8, [])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    threads.prepare(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    threads.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_the_next_job_of_a_sweep_chooses_anew(monkeypatch):
    cores(monkeypatch, 8, [])
    chosen = []
    torch = type("Torch", (), {"set_num_threads": staticmethod(chosen.append)})
    monkeypatch.setitem(sys.modules, "torch", torch)
    threads.prepare(4)
    threads.prepare()
    assert chosen == [2, 8]


def test_quotas_of_both_kinds_of_control_groups_are_read(tmp_path: Path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads._quotas(tmp_path) == [1.5]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert threads._quotas(tmp_path) == [0.5]


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_the_environment_is_set_before_torch_is_loaded(given: dict[str, str], expected: str, tmp_path: Path):
    """The first import of torch in a command finds it set: OpenMP reads it once."""
    code = """
import builtins, json, os, runpy, sys
original = builtins.__import__
def watched(name, *rest):
    if name == "torch":
        print(json.dumps(os.environ.get("OMP_WAIT_POLICY")))
        os._exit(0)
    return original(name, *rest)
builtins.__import__ = watched
sys.argv = ["search.py"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    project = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env={**environment, **given}, capture_output=True, text=True
    )
    assert json.loads(finished.stdout.splitlines()[0]) == expected


_FAULTS = """
import resource, sys
from zoo import threads
if sys.argv[1] == "kept":
    threads.prepare()
bytearray(b"x") * (64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(b"x") * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(way: str, **more: str) -> int:
        words = [sys.executable, "-c", _FAULTS, way]
        return int(subprocess.run(words, env=clean | more, capture_output=True, text=True, check=True).stdout)

    kept = faults("kept")
    assert kept < faults("as it is") / 4
    assert kept < faults("kept", MALLOC_MMAP_THRESHOLD_="1048576") / 4  # as the user says
