from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder
from datamodules.files import ImagesInFiles, UnreadableImage, read_image
from datamodules.images import as_float
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(3, 6, 6, (0.5,) * 3, (0.5,) * 3, "bicubic")


def fill(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (9, 8), (i, 0, 0)).save(folder / name / f"{i}.png")


def refusal(root: Path | str, **options) -> str:
    with pytest.raises(UserError) as error:
        ImageFolder(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_grey_keeps_its_shades(tmp_path: Path, suffix: str) -> None:
    shades = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(shades).save(tmp_path / f"deep.{suffix}")
    pixels = read_image(tmp_path / f"deep.{suffix}")
    assert pixels.shape == (3, 4, 6)
    assert torch.allclose(pixels[0], torch.from_numpy(shades.astype(np.float32) / 65535))
    assert torch.equal(pixels[0], pixels[2])


def test_floating_point_images_are_taken_between_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], dtype=np.float32)).save(tmp_path / "good.tif")
    assert read_image(tmp_path / "good.tif")[0].tolist() == [[0.0, 0.25, 1.0]]
    Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32)).save(tmp_path / "bad.tif")
    with pytest.raises(UnreadableImage, match=r"bad\.tif holds values from 0 to 300, expected 0 to 1; rescale it"):
        read_image(tmp_path / "bad.tif")


def test_palettes_and_transparency_keep_their_colours(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    image.save(tmp_path / "rgba.png")
    image.convert("RGB").quantize(2).save(tmp_path / "palette.png", transparency=0)
    Image.new("LA", (4, 4), (77, 128)).save(tmp_path / "la.png")
    for name, colour in {"rgba": (200, 100, 50), "palette": (200, 100, 50), "la": (77, 77, 77)}.items():
        assert tuple(read_image(tmp_path / f"{name}.png")[:, 0, 0].tolist()) == colour


@pytest.mark.parametrize("keep", [0, 20, 200])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_a_file_cut_short_is_named_in_one_line(tmp_path: Path, suffix: str, keep: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path} cannot be read as an image")
    assert "\n" not in str(error.value)


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
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 30, "b": 30})
    data = ImageFolder(str(tmp_path))
    images, labels = data.images("train", SPEC, limit=5)
    kept = {data._source.path(int(index)) for index in data._splits["train"][:5]}
    for path in tmp_path.rglob("*.png"):
        if path not in kept:
            path.write_bytes(b"no image")
    again = data.images("probe", SPEC, limit=5)
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


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "._0.png").write_bytes(b"what macOS leaves in archives")
    (tmp_path / ".cache").mkdir()
    data = ImageFolder(str(tmp_path))
    assert sum(data.num_images(split) for split in ("train", "val", "test")) == 20


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
        "images of mine: 3x8x9 colour (the first; sizes vary) -> 3x6x6 colour, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 "
        "0.5; augmentation: random_resized crop, flip, trivial"
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
    ],
)
def test_refuses_settings(tmp_path: Path, options: dict, told: str) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    assert told in refusal(str(tmp_path), **options)


def test_refuses_roots(tmp_path: Path) -> None:
    assert "there is no such folder; put a folder of images per class" in refusal(str(tmp_path / "missing"))
    assert "holds no folder" in refusal(str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "there is no such folder" in refusal(str(tmp_path / "file"))
    assert "expected the path of a folder" in refusal(17)


def test_eight_bit_values_become_shares_of_255() -> None:
    assert as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
