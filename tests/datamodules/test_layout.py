from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageFolder
from datamodules.layout import split_of
from zoo.errors import UserError

CLASSES = ("cat", "dog")


def fill(root: Path, *folders: str, num_images: int = 6, suffix: str = "png") -> None:
    """The same few images, in each of the folders others."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(num_images):
            pixels = np.random.default_rng(100 * number + i).integers(0, 255, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.{suffix}")


def read(root: Path, **options) -> tuple[tuple[str, ...], list[int]]:
    data = ImageFolder(str(root), **options)
    return data.class_names, [data.num_images(split) for split in ("train", "val", "test")]


def refusal(root: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        ImageFolder(str(root), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (name, "train")
            for name in ("train", "Training", "TRAIN", "trainset", "train_images", "train2017", "训练集")
        ),
        *((name, "val") for name in ("val", "valid", "Validation", "dev", "val_set", "ValImages", "development")),
        *((name, "test") for name in ("test", "Testing", "test-data", "tests", "images_test")),
        *((name, "") for name in ("eval", "Evaluation", "holdout", "hold-out")),
        *((name, None) for name in ("cat", "trainer", "testtube", "contest", "images", "data", "set", "device", "7")),
    ],
)
def test_knows_the_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Training", "valid", "Testing"), ("TRAIN", "VAL", "TEST"), ("trainset", "dev", "test_images")],
)
def test_takes_splits_in_their_usual_spellings(tmp_path: Path, train: str, val: str, test: str) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in (train, val, test) for name in CLASSES), num_images=3)
    assert read(tmp_path) == (CLASSES, [6, 6, 6])


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["val/cat", "val/dog", "test/cat", "test/dog"], "no folder train"),
        (["train/cat", "train/dog", "val/cat", "val/dog", "valid/cat", "valid/dog"], "both 'val' and 'valid' for val"),
        (["train/cat", "train/dog", "eval/cat", "eval/dog"], "'eval', which may mean validation or test"),
        (["train/cat", "train/dog", "other/cat", "other/dog"], "'other' with the folder 'cat' beside 'train'"),
        (["train/cat", "train/dog", "cat", "dog"], "the class 'cat' beside 'train'"),
        (["train", "test"], "'test' and 'train' named like splits, without a folder per class"),
        (["train/cat", "train/dog", "test"], "'test' without a folder per class"),
        (["seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog"], "the same folders in them (cat, ...)"),
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], "look like folds"),
        (["fold1", "fold2", "fold3"], "look like folds"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "the splits inside the classes (cat/test, dog/test)"),
        (["dataset/cat", "dataset/dog"], "the folder dataset alone"),
        (["train/train/cat", "train/train/dog"], "the folder train alone"),
        (["cat"], "the folder cat alone"),
        (["trainA", "trainB", "testA", "testB"], "'testA' and 'testB' and 'trainA' and more, named after splits"),
        (["seg_train/cat", "seg_train/dog", "other"], "'seg_train', named after splits"),
        (["cat/train", "cat/test", "dog"], "'cat' with splits in it (test, train)"),
        (["data/train/cat", "data/val/cat", "figures"], "'data' with splits in it (train, val)"),
        (["images", "masks"], "'images' beside 'masks'"),
        (["train/images", "train/labels", "val/images", "val/labels"], "'images' beside 'labels'"),
        (["cat", "dog", "backup/cat", "backup/dog"], "'backup' with 'cat' in it"),
        (["cat", "Cat", "dog"], "'Cat' and 'cat': two classes of one name"),
        (["train/cat", "train/dog", "test/Cat", "test/dog"], "but for capitals or Unicode forms 'Cat' is 'cat'"),
        (
            ["train/cat", "train/dog", "test/cat", "test/dog", "test/bird"],
            "test has classes that the training images lack: bird; give every split the same classes",
        ),
        (
            ["train/cat", "train/dog", "train/bird", "test/cat", "test/dog"],
            "test lacks classes of the training images: bird; give every split the same classes",
        ),
    ],
)
def test_refuses_what_may_be_meant_in_two_ways(tmp_path: Path, folders: list[str], told: str) -> None:
    fill(tmp_path, *folders, num_images=2)
    assert told in refusal(tmp_path)


def test_the_folders_are_the_classes_where_that_is_typed(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "other/cat", "other/dog")
    assert "dataset.layout=classes" in refusal(tmp_path)
    assert read(tmp_path, layout="classes") == (("other", "train"), [16, 4, 4])


def test_a_class_may_be_called_like_a_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "bus", "car", "train")
    assert read(tmp_path)[0] == ("bus", "car", "train")
    assert "the folder 'train' is taken as a class, like bus, car" in caplog.messages[0]


def test_what_is_left_out_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "cat/deeper", "dog")
    for place in ("__MACOSX/cat", ".ipynb_checkpoints", "cat/@eaDir"):
        fill(tmp_path, place, num_images=2)
    for file in ("dog/notes.txt", "dog/Thumbs.db", "cat/._0.png", "cat/0.heic", "loose.png"):
        (tmp_path / file).write_bytes(b"\0\0\0\0ftypheic")
    assert read(tmp_path) == (CLASSES, [8, 2, 2])
    assert caplog.messages == [
        f"images of {tmp_path}: 12 read; left out: 5 files of no class, hidden or no images to Pillow (loose.png, "
        "cat/._0.png, cat/0.heic, ...), 3 folders (.ipynb_checkpoints, __MACOSX, cat/@eaDir)"
    ]


def test_what_lies_beside_the_splits_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/cat", "train/dog", "extra")
    (tmp_path / "README.md").write_text("")
    read(tmp_path)
    assert "1 files of no class, hidden or no images to Pillow (README.md), 1 folders (extra)" in caplog.messages[0]


def test_every_suffix_and_none_at_all_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "dog", num_images=12)
    fill(tmp_path, "cat", num_images=12, suffix="jpg")
    suffixes = [".jfif", ".jpe", ".JFIF", ".JPEG", "", ".download", ".jpg_large"]
    for path, suffix in zip(sorted((tmp_path / "cat").iterdir()), suffixes, strict=False):
        path.rename(path.with_suffix(suffix))
    for suffix in ("avif", "jp2", "tga", "tiff", "ppm", "webp"):
        Image.open(tmp_path / "dog" / "0.png").save(tmp_path / "cat" / f"other.{suffix}")
    assert sum(read(tmp_path)[1]) == 30
    assert "left out" not in caplog.text


def test_links_are_followed_and_circles_refused(tmp_path: Path) -> None:
    fill(tmp_path, "store/cats", "store/dogs", "data/dog")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "store" / "dogs")
    assert sum(read(tmp_path / "data")[1]) == 18
    (tmp_path / "data" / "dog" / "nothing.png").symlink_to(tmp_path / "gone.png")
    assert "nothing.png is a link to nothing" in refusal(tmp_path / "data")
    (tmp_path / "data" / "dog" / "nothing.png").unlink()
    (tmp_path / "data" / "dog" / "circle").symlink_to(tmp_path / "data" / "dog")
    assert "circle is a link to a folder that it lies in" in refusal(tmp_path / "data")


def test_names_that_are_no_utf8_and_names_that_yaml_would_read_stay_text(tmp_path: Path) -> None:
    fill(tmp_path, *(os.fsdecode(name) for name in (b"caf\xe9", b"007", b"1e3", b"null", b"yes")))
    data = ImageFolder(str(tmp_path))
    assert data.class_names == ("007", "1e3", r"caf\xe9", "null", "yes")
    assert data.digest == ImageFolder(str(tmp_path)).digest
    (tmp_path / os.fsdecode(b"caf\xe9") / "0.png").write_bytes(b"")
    assert r"caf\xe9/0.png" in refusal(tmp_path)


def test_the_order_of_the_file_system_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *CLASSES)
    before, scandir = ImageFolder(str(tmp_path)).manifest, os.scandir

    class Reversed:
        def __init__(self, folder: str) -> None:
            self._entries = list(scandir(folder))[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert ImageFolder(str(tmp_path)).manifest == before


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *CLASSES)
    scandir = os.scandir

    def forbidden(folder: os.PathLike[str] | str) -> object:
        if Path(folder).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert f"{tmp_path / 'dog'} cannot be listed (Permission denied)" in refusal(tmp_path)
