"""What may be typed for ``executor``."""

from __future__ import annotations

import importlib.util

import pytest

from zoo.errors import UserError
from zoo.executors import settings
from zoo.executors.settings import ExecutorSettings


@pytest.mark.parametrize(
    ("name", "num_workers", "told"),
    [
        ("threads", "auto", "executor.name=threads is unknown; allowed are serial, processes, ray"),
        ("processes", 0, "executor.num_workers=0 is out of range"),
        ("processes", "many", "executor.num_workers=many is unknown; allowed are auto"),
        ("processes", True, "executor.num_workers=true is not a whole number"),
        ("serial", 4, "type executor=processes executor.num_workers=4"),
    ],
)
def test_wrong_values_are_refused(name: str, num_workers: int | str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        ExecutorSettings(name, num_workers)
    assert told in str(raised.value)


def test_auto_is_the_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "num_free_cores", lambda: 3)
    assert ExecutorSettings("processes").num_local_workers == 3
    assert ExecutorSettings("processes", 2).num_local_workers == 2


def test_more_processes_than_make_sense_and_a_missing_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "num_free_cores", lambda: 2)
    ExecutorSettings("processes", 16).require_machine()
    with pytest.raises(UserError, match=r"executor.num_workers=17: 2 cores are free"):
        ExecutorSettings("processes", 17).require_machine()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="executor=ray needs the package ray"):
        ExecutorSettings("ray").require_machine()
