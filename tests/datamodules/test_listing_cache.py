"""A list that is kept is the list that would be made, or is made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules import ImageFolder, listing, listing_cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing_cache, "MIN_FILES", 1)
    root = tmp_path / "images"
    for number in range(16):
        add(root / "ab"[number % 2] / "deep", f"{number}.png")
    settle(root)
    return root


def add(place: Path, name: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (len(name), 0, 0)).save(place / name)


def settle(root: Path) -> None:
    """As if nothing had changed for a while."""
    for place in (root, *(p for p in root.rglob("*") if p.is_dir())):
        then = place.stat().st_mtime_ns - 10**10
        os.utime(place, ns=(then, then))


def read(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """The names, and how many folders were gone through below those of the classes."""
    walked, walk = [], listing._walk
    monkeypatch.setattr(listing, "_walk", lambda root, place, *rest: (walked.append(place), walk(root, place, *rest)))
    data = ImageFolder(str(root))
    monkeypatch.setattr(listing, "_walk", walk)
    return [data._source.name(index) for index in range(len(data._source))], len(walked)


def test_what_has_not_changed_is_not_gone_through_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = read(folder, monkeypatch), read(folder, monkeypatch)
    assert first == (again[0], 4)
    assert again[1] == 0
    add(folder / "a" / "deep", "new.png")
    (folder / "a" / "deep" / "0.png").unlink()
    os.utime(folder / "a" / "deep", ns=(10**18, 10**18))
    changed, num_walked = read(folder, monkeypatch)
    assert set(changed) == {*first[0], "a/deep/new.png"} - {"a/deep/0.png"}
    assert num_walked == 2


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", listing_cache.gzip.compress(b'{"format": 1}')], ids=["empty", "no gzip", "no list"]
)
def test_a_damaged_list_is_made_anew(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = read(folder, monkeypatch)
    (kept,) = (folder.parent / "cache").rglob("*.json.gz")
    kept.write_bytes(content)
    assert read(folder, monkeypatch) == (names, 4)
    assert read(folder, monkeypatch) == (names, 0)


def test_what_may_have_just_changed_and_what_is_looked_into_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder / "a", "late.png")
    os.rename(folder / "b" / "deep" / "1.png", folder / "b" / "deep" / "1")
    assert read(folder, monkeypatch)[1] == 4
    assert read(folder, monkeypatch)[1] == 4


def test_a_file_that_changes_in_place_changes_the_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ImageFolder(str(folder)).digest
    Image.fromarray(torch.zeros(9, 9, dtype=torch.uint8).numpy()).save(folder / "a" / "deep" / "0.png")
    assert read(folder, monkeypatch)[1] == 0
    assert ImageFolder(str(folder)).digest != before


def test_small_folders_leave_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_cache, "MIN_FILES", 20_000)
    read(folder, monkeypatch)
    assert not (folder.parent / "cache").exists()
