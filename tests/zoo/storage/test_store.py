"""The store: a result is computed once, by content, and a damaged one is never trusted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from zoo.errors import UserError
from zoo.storage.store import Entry, Store, content_key


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def entry() -> Entry:
    return Entry({"x": torch.arange(6.0).view(2, 3)}, {"name": "é", "sizes": [1, None, 0.1]})


def refuse() -> Entry:
    raise AssertionError("computed again")


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    Store(tmp_path).fetch("stage", {"seed": 0}, entry)
    store = Store(tmp_path)
    found = store.fetch("stage", {"seed": 0}, refuse)
    assert torch.equal(found.tensors["x"], entry().tensors["x"])
    assert list(found.tensors) == ["x"]
    assert found.values == entry().values
    assert (store.hits, store.misses) == ({"stage": 1}, {})


def test_what_it_depends_on_makes_another_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for inputs in ({"settings": Settings()}, {"settings": Settings(0.2)}, {"settings": Settings(), "seed": 1}):
        store.fetch("stage", inputs, entry)
    store.fetch("other", {"settings": Settings()}, entry)
    store.fetch("stage", {"settings": Settings()}, refuse)
    assert store.misses == {"stage": 3, "other": 1}


def test_a_content_key_takes_plain_data_only() -> None:
    assert content_key(Settings()) == content_key({"rate": 0.1})
    with pytest.raises(TypeError, match="Tensor"):
        content_key(torch.zeros(1))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_entry_is_refused_or_computed_anew(tmp_path: Path, damage: str) -> None:
    Store(tmp_path).fetch("stage", 1, entry)
    (path,) = tmp_path.rglob("*.entry")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"cut": path.read_bytes()[:-5], "flip": bytes(content), "empty": b""}[damage])
    with pytest.raises(UserError, match=r"damaged.*cache.rebuild_damaged=true"):
        Store(tmp_path).fetch("stage", 1, refuse)
    rebuilding = Store(tmp_path, rebuild_damaged=True)
    assert torch.equal(rebuilding.fetch("stage", 1, entry).tensors["x"], entry().tensors["x"])
    Store(tmp_path).fetch("stage", 1, refuse)


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Store(tmp_path).fetch("stage", 1, refuse)
    assert list(tmp_path.rglob("*.entry")) == []


JOB = """
import sys, time
from pathlib import Path
from zoo.storage.store import Entry, Store

def compute():
    with open(sys.argv[2], "a") as file:
        file.write("computed\\n")
    time.sleep(0.5)
    return Entry(values=1)

Store(sys.argv[1]).fetch("stage", 1, compute)
"""


def test_parallel_jobs_compute_an_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", JOB, str(tmp_path / "store"), str(log)]
    jobs = [subprocess.Popen(command) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert log.read_text() == "computed\n"
