from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from datamodules import Digits, ImageFolder
from datamodules.manifest import ListedImage, Manifest, difference, printable
from zoo.errors import UserError

BEFORE = {name: ListedImage(name[0], "train", 10, 5) for name in ("a/0", "a/1", "b/0")}


def changed(**rows: ListedImage | None) -> str | None:
    after = {**BEFORE, **{name.replace("_", "/"): row for name, row in rows.items()}}
    after = {name: row for name, row in after.items() if row is not None}
    return difference(Manifest("one", BEFORE), Manifest("two", after))


def test_every_kind_of_change_is_counted_with_an_example() -> None:
    assert changed(c_0=ListedImage("c", "train", 10, 5)) == "images 1 added (c/0)"
    assert changed(a_0=None, a_1=None) == "images 2 removed (a/0)"
    assert changed(a_0=ListedImage("b", "train", 10, 5)) == "images 1 relabelled (a/0: a -> b)"
    assert changed(a_0=ListedImage("a", "train", 11, 6)) == "images 1 changed in place (a/0)"
    assert "1 changed in place or copied (the time of change differs)" in changed(a_0=ListedImage("a", "train", 10, 6))
    assert changed(a_0=ListedImage("a", "test", 10, 5)) == "images 1 moved between splits (a/0: train -> test)"
    both = changed(c_0=ListedImage("c", "train", 10, 5), b_0=None)
    assert both == "images 1 added (c/0), 1 removed (b/0)"
    assert changed() == "the same list of images, other pixels, classes, order or cropping"
    assert difference(Manifest("one", BEFORE), Manifest("one", BEFORE)) is None


def test_a_folder_of_images_is_listed_and_read_back(tmp_path: Path) -> None:
    for name in ("cat", os.fsdecode(b"caf\xe9")):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (4, 4), (30 * i, 255, 0)).save(tmp_path / name / f"{i}.png")
    before = ImageFolder(str(tmp_path)).manifest
    assert Manifest.from_bytes(before.to_bytes()) == before
    assert before.to_bytes() == ImageFolder(str(tmp_path)).manifest.to_bytes()
    row = before.images["cat/3.png"]
    status = (tmp_path / "cat" / "3.png").stat()
    assert (row.label, row.size_bytes, row.modified_ns) == ("cat", status.st_size, status.st_mtime_ns)
    assert len(before.images) == 16
    os.utime(tmp_path / "cat" / "3.png", ns=(1, status.st_mtime_ns + 1))
    after = ImageFolder(str(tmp_path)).manifest
    assert difference(before, after).endswith("(cat/3.png)")


def test_images_in_memory_are_listed_by_number() -> None:
    manifest = Digits(num_train=20, num_validation=10, num_test=10).manifest
    assert [row.split for row in manifest.images.values()].count("train") == 20
    assert difference(manifest, Digits(num_train=20, num_validation=10, num_test=10).manifest) is None
    assert "moved between splits" in difference(manifest, Digits(num_train=10, num_validation=20, num_test=10).manifest)


def test_a_damaged_manifest_is_refused() -> None:
    content = Manifest("one", BEFORE).to_bytes()
    for bad in (b"", content[:-9], b"x" + content, content[:20] + b"\0" + content[21:]):
        with pytest.raises(UserError, match="manifest of the data is damaged"):
            Manifest.from_bytes(bad)


def test_names_are_printable() -> None:
    assert printable("ü/字.png") == "ü/字.png"
    assert printable(os.fsdecode(b"caf\xe9/0.png")) == r"caf\xe9/0.png"
    assert printable("a\nb\x1b[31m") == r"a\nb\x1b[31m"
