from __future__ import annotations

import logging
import os
import shutil
import signal
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder
from datamodules.files import ImagesInFiles, UnreadableImage
from datamodules.images import as_float
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(3, 6, 6, (0.5,) * 3, (0.5,) * 3, "bicubic")


def fill(folder: Path, counts: dict[str, int]) -> None:
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (9, 8), (i, 255, label)).save(folder / name / f"{i}.png")


def refusal(root: Path | str, **options) -> str:
    with pytest.raises(UserError) as error:
        ImageFolder(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_worker_process_names_the_broken_file_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    data = ImageFolder(str(tmp_path), batch_size=4, num_workers=1)
    data.use_input(SPEC)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableImage) as error:
        list(data.train_dataloader())
    assert str(error.value).startswith(str(tmp_path))
    assert "cannot be read as an image" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(ForkingPickler.loads(ForkingPickler.dumps(error.value))) == str(error.value)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 30, "b": 30})
    data = ImageFolder(str(tmp_path))
    images, labels = data.images("train", SPEC, limit=5)
    kept = {data._source.path(int(index)) for index in data._splits["train"][:5]}
    for path in tmp_path.rglob("*.png"):
        if path not in kept:
            path.write_bytes(b"no image")
    again = data.images("train", SPEC, limit=5)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])


def test_helpers_read_the_same_images(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 200, "b": 200})
    options = {"validation_share": 0.1, "test_share": 0.1}
    alone, helped = (ImageFolder(str(tmp_path), num_workers=count, **options) for count in (0, 2))
    for split in ("train", "val"):
        for mine, theirs in zip(alone.images(split, SPEC), helped.images(split, SPEC), strict=True):
            assert torch.equal(mine, theirs)


def test_listing_holds_names_of_any_kind(tmp_path: Path) -> None:
    names = ["a/b c.png", "ü/字.png", "a/" + "x" * 200 + ".png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), i).save(tmp_path / name)
    images = ImagesInFiles(tmp_path, names, torch.tensor([0, 1, 0]))
    assert [images.path(i) for i in range(3)] == [tmp_path / name for name in names]
    assert [int(images.image(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    renamed = ImagesInFiles(tmp_path, names, torch.tensor([0, 1, 1]))
    assert renamed.digest != images.digest


def test_a_class_of_one_image_is_trained_on_and_the_log_says_that_it_is_not_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, {"a": 20, "b": 20, "rare": 1})
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(str(tmp_path))
    assert 2 in data.images("train", SPEC)[1]
    told = [record.message for record in caplog.records]
    assert told == [
        f"the {split} split has no image of class rare: nothing is measured of them" for split in ("val", "test")
    ]
    assert "no training image is left of class rare" in refusal(str(tmp_path), validation_share=0.2, test_share=0.6)


def test_the_log_says_how_images_are_brought_to_the_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"a": 10, "b": 10})
    data = ImageFolder(str(tmp_path), name="mine", augmentation="trivial", crop="random_resized", flip=True)
    with caplog.at_level(logging.INFO, logger="datamodules"):
        data.use_input(SPEC)
        data.use_input(SPEC)  # told once
    assert [record.message for record in caplog.records] == [
        "images of mine: 3x8x9 colour as read (the first; others may differ) -> 3x6x6 colour, bicubic, "
        "mean 0.5 0.5 0.5, std 0.5 0.5 0.5; augmentation: random_resized crop, flip, trivial"
    ]


def test_the_record_says_what_was_read_and_how_it_was_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "b": 10})
    fill(tmp_path / "test", {"a": 2, "b": 2})
    data = ImageFolder(str(tmp_path), name="mine", validation_share=0.2, seed=4)
    assert data.record == {
        "name": "mine",
        "num_classes": 2,
        "splits": {
            "train": 16,
            "val": 4,
            "test": 4,
            "how": "train, test as given; val cut out of train by seed 4, stratified",
        },
        "digest": data.digest,
        "digest_covers": "file names, file sizes, times of change and labels, classes, splits",
        "conversion": None,
    }
    data.use_input(InputSpec(1, 8, 8, (0.5,), (0.5,)))
    assert " -> 1x8x8 grey" in data.record["conversion"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test_share": 0}, "dataset.test_share=0: expected a share above 0 and below 1"),
        ({"test_share": -0.5}, "dataset.test_share=-0.5"),
        ({"test_share": "half"}, "dataset.test_share=half"),
        ({"validation_share": None}, "dataset.validation_share=None"),
        ({"validation_share": 0.5, "test_share": 0.5}, "too few to cut val and test out of them"),
        ({"augmentation": "trival"}, "did you mean 'trivial'"),
        ({"layout": "classes_"}, "did you mean 'classes'"),
        ({"background": "whit"}, "dataset.background=whit: expected a colour"),
        ({"background": 256}, "dataset.background=256"),
        ({"background": [0, 1]}, "dataset.background=[0, 1]"),
        ({"white_level": 0}, "dataset.white_level=0: expected a number above 0"),
    ],
)
def test_refuses_settings(tmp_path: Path, options: dict, told: str) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    assert told in refusal(str(tmp_path), **options)


def test_refuses_roots(tmp_path: Path) -> None:
    assert "there is no such folder; put a folder of images per class" in refusal(str(tmp_path / "missing"))
    assert "holds no folder" in refusal(str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "is a file; expected a folder of images per class" in refusal(str(tmp_path / "file"))
    assert "cannot be listed (Not a directory)" in refusal(str(tmp_path / "file" / "deeper"))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert f"dataset.root={tmp_path / 'circle'}" in refusal(str(tmp_path / "circle"))
    assert "expected the path of a folder" in refusal(17)


def test_a_worker_process_that_is_killed_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    data = ImageFolder(str(tmp_path), batch_size=4, num_workers=1)
    data.use_input(SPEC)
    monkeypatch.setattr(ImagesInFiles, "image", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"a process that loads images was killed .* dataset.num_workers=0") as error:
        list(data.val_dataloader())
    assert "\n" not in str(error.value)


def test_empty_files_are_named_before_anything_is_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    for i in range(4):
        (tmp_path / "b" / f"{i}.png").write_bytes(b"")
    assert "4 image files are empty (b/0.png, b/1.png, b/2.png, ...)" in refusal(str(tmp_path))


def test_broken_images_of_any_split_are_named_at_once(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        fill(tmp_path / split, {"a": 6, "b": 6})
    for name in ("val/a/1.png", "test/b/2.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    told = refusal(str(tmp_path))
    assert "val/a/1.png cannot be read as an image" in told
    assert "so is 1 more (test/b/2.png)" in told


def test_faults_of_each_kind_are_told_by_themselves_and_no_level_is_advised_that_would_blacken_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    random = np.random.default_rng(0)
    for i, dtype, high in ((6, np.float32, 200), (7, np.float32, 255), (8, np.uint16, 65535), (9, np.uint16, 60000)):
        pixels = (random.random((9, 9)) * high).astype(dtype)
        pixels[0, :2] = 0, high
        Image.fromarray(pixels).save(tmp_path / "b" / f"{i}.tif")
    told = refusal(str(tmp_path))
    assert "6.tif holds values from 0 to 200, expected 0 to 1; so does 1 more (b/7.tif); rescale them (dataset." in told
    assert "set dataset.white_level" not in told
    (tmp_path / "a" / "1.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:50])
    told = refusal(str(tmp_path), white_level=255)
    broken, sixteen = told.split("; ", 1)[0], told.split("repair or remove it; ")[1]
    assert "a/1.png cannot be read as an image" in broken
    assert "8.tif holds values from 0 to 65535, expected 0 to 255; so does 1 more (b/9.tif)" in sixteen
    (tmp_path / "a" / "1.png").unlink()
    ImageFolder(str(tmp_path), white_level=65535, validation_share=0.1, test_share=0.1)
    assert any("those of floating-point numbers among the first" in line for line in caplog.messages)
    for name in ("8.tif", "9.tif"):
        (tmp_path / "b" / name).unlink()
    assert "so does 1 more (b/7.tif); rescale them, or set dataset.white_level=255" in refusal(str(tmp_path))


def test_copies_between_splits_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        random = np.random.default_rng(seed)
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(random.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / split / name / f"{i}.bmp")
    ImageFolder(str(tmp_path))
    assert caplog.messages == []
    shutil.copy(tmp_path / "train" / "a" / "1.bmp", tmp_path / "test" / "a" / "2.bmp")
    ImageFolder(str(tmp_path))
    assert caplog.messages == [
        "1 images of test are copies of images of train (test/a/2.bmp is train/a/1.bmp): its figures are not of unseen "
        "images"
    ]
    caplog.clear()
    shutil.copy(tmp_path / "train" / "a" / "0.bmp", tmp_path / "train" / "b" / "2.bmp")
    ImageFolder(str(tmp_path))
    (told,) = caplog.messages[1:]
    assert told.startswith("1 images are copies of images of another class (")
    assert told.endswith("): one of the two labels is wrong")
    assert "train/b/2.bmp" in told
    assert "train/a/0.bmp" in told


@pytest.mark.parametrize(
    ("dtype", "high", "told"),
    [
        (np.uint16, 4095, "dataset.white_level=4095"),
        (np.uint16, 16000, "dataset.white_level=16383"),
        (np.uint16, 65535, None),
        (np.float32, 0.25, "dataset.white_level=0.25"),
        (np.uint8, 1, "rescale the files"),
        (np.uint8, 200, None),
    ],
)
def test_values_that_use_little_of_their_range_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: type, high: float, told: str | None
) -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = (random.random((9, 9)) * high).round(3 if dtype == np.float32 else 0).astype(dtype)
            pixels[0, :2] = 0, high
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.tif")
    ImageFolder(str(tmp_path))
    assert len(caplog.messages) == (told is not None)
    if told is None:
        return
    assert told in caplog.messages[0]
    if "white_level" in told:
        caplog.clear()
        level = float(told.partition("=")[2])
        data = ImageFolder(str(tmp_path), white_level=level)
        assert caplog.messages == []
        assert data.images("train", SPEC)[0].max() > 0.5
        assert data.digest != ImageFolder(str(tmp_path)).digest


def test_remarks_on_files_are_made_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[2:6, 2:6, 3] = 255
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            drawing[0, 0] = i, 0, ord(name), 255
            Image.fromarray(drawing).save(tmp_path / name / f"{i}.png")
    data = ImageFolder(str(tmp_path))
    data.images("train", SPEC)
    assert len(caplog.messages) == 1
    assert "transparent parts, which get the background white (dataset.background)" in caplog.messages[0]
    black = ImageFolder(str(tmp_path), background="black")
    assert black.digest != data.digest
    assert black.images("train", SPEC)[0].mean() < data.images("train", SPEC)[0].mean()


def test_eight_bit_values_become_shares_of_255() -> None:
    assert as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
