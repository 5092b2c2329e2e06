"""What decides a network and its features, for content keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.description import identity
from zoo.entries import InputSpec, ZooEntry
from zoo.storage.sources import module_digest
from zoo.weights import Weights

SPEC = InputSpec(1, 8, 8, (0.5,), (0.5,))


def test_a_factory_counts_by_its_source_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in ("def build(): ...", "def build(): return 1"):
        (tmp_path / "mine_factory.py").write_text(text)
        module_digest.cache_clear()
        found.append(identity(ZooEntry("own", "mine_factory:build", SPEC)))
    assert found[0] != found[1]
    assert {**found[0], "code": ""} == {**found[1], "code": ""}


def test_names_and_remarks_of_a_network_with_weights_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"w")
    entries = [
        ZooEntry(name, "timm", SPEC, model="resnet18", weights=Weights(file=str(tmp_path / "w.pth")), description=name)
        for name in "ab"
    ]
    assert identity(entries[0]) == identity(entries[1])
