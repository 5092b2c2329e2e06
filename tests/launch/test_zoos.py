"""A zoo that an earlier command has read is the same zoo, and nothing is kept before all checks are over."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import zoos
from launch.zoos import configured_zoo
from tests.launch.conftest import checked
from zoo.registry import read_zoo


@pytest.mark.parametrize("zoo", ["embedded", "cnn", "hybrid"])
def test_the_kept_zoo_is_the_zoo_that_was_read(zoo: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checked("search", f"zoo={zoo}")
    expected = read_zoo(config.zoo)
    assert dict(configured_zoo(config, keep=False)) == dict(expected)
    assert not any(folder.iterdir())
    configured_zoo(config, keep=True)
    monkeypatch.delattr(zoos, "whole_zoo")
    for keep in (False, True):
        kept = configured_zoo(config, keep=keep)
        assert (kept.name, list(kept.items())) == (expected.name, list(expected.items()))
    with pytest.raises(NameError):
        configured_zoo(checked("search", f"zoo={zoo}", "zoo.name=other"), keep=False)


def test_what_is_missing_is_looked_at_in_every_command(folder: Path) -> None:
    entry = "{source: timm, model: resnet18, weights: {file: %s}}" % (folder / "late.pth")
    config = checked("search", "+zoo.leave_out=missing", f"+zoo.networks.late={entry}")
    assert "late" not in configured_zoo(config, keep=True)
    (folder / "late.pth").write_bytes(b"there")
    assert "late" in configured_zoo(config, keep=True)
