from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder
from datamodules.files import read_image
from datamodules.images import as_float, resize_and_crop
from zoo.entries import InputSpec
from zoo.errors import UserError

COLOUR = InputSpec(3, 6, 6, (0.0,) * 3, (1.0,) * 3)
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def fill(folder: Path, num_images: int = 10, names: tuple[str, ...] = ("blue", "red")) -> None:
    for name in names:
        (folder / name / "deeper").mkdir(parents=True)
        for i in range(num_images):
            place = folder / name / ("deeper" if i % 2 else "")
            Image.new("RGB", (8 + i, 9), COLOURS.get(name, (0, 255, 0))).save(place / f"{i}.png")
        (folder / name / "notes.txt").write_text("no image")


def test_splits_a_folder_of_classes_by_seed(tmp_path: Path):
    fill(tmp_path)
    data = ImageFolder(str(tmp_path), validation_share=0.2, test_share=0.3)
    assert data.class_names == ("blue", "red")
    assert [data.num_images(split) for split in ("train", "val", "test")] == [10, 4, 6]
    for split in ("train", "val", "test"):
        images, labels = data.images(split, COLOUR)
        assert images.shape[1:] == (3, 6, 6)
        assert torch.allclose(images[:, 0, 0, 0], labels.float(), atol=1e-5)  # red is class 1
        assert labels.float().mean() == 0.5
    again = ImageFolder(str(tmp_path), validation_share=0.2, test_share=0.3)
    assert data.digest == again.digest != ImageFolder(str(tmp_path), seed=1).digest


def test_takes_the_folders_that_are_given_and_cuts_the_others_out_of_train(tmp_path: Path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", num_images=3)
    data = ImageFolder(str(tmp_path), validation_share=0.2)
    assert [data.num_images(split) for split in ("train", "val", "test")] == [16, 4, 6]
    fill(tmp_path / "val", num_images=2)
    data = ImageFolder(str(tmp_path))
    assert [data.num_images(split) for split in ("train", "val", "test")] == [20, 4, 6]


def test_the_digest_sees_a_replaced_file(tmp_path: Path):
    fill(tmp_path)
    before = ImageFolder(str(tmp_path)).digest
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "red" / "0.png")
    assert ImageFolder(str(tmp_path)).digest != before


def test_loaders_read_files_in_worker_processes(tmp_path: Path):
    fill(tmp_path, num_images=4)
    data = ImageFolder(str(tmp_path), num_workers=1, batch_size=2, augmentation="affine")
    data.use_input(COLOUR)
    assert sum(len(labels) for _, labels in data.train_dataloader()) == data.num_images("train")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "I;16"])
def test_reads_images_of_any_mode_as_colour(tmp_path: Path, mode: str):
    array = np.full((5, 7), 65535, dtype=np.uint16)
    image = Image.fromarray(array) if mode == "I;16" else Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (3, 5, 7)
    assert torch.allclose(as_float(pixels), torch.ones(()), atol=0.01)


def test_turns_images_as_their_camera_says(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save(tmp_path / "image.jpg", exif=exif)
    assert read_image(tmp_path / "image.jpg").shape == (3, 7, 5)


def test_brings_images_to_the_networks_channels_and_size():
    grey = torch.rand(2, 1, 10, 20, generator=torch.Generator().manual_seed(0))
    colour = resize_and_crop(grey, InputSpec(3, 5, 5, (0.0,) * 3, (1.0,) * 3))
    assert colour.shape == (2, 3, 5, 5)
    assert torch.equal(colour[:, 0], colour[:, 2])
    assert torch.allclose(
        resize_and_crop(grey.expand(-1, 3, -1, -1), InputSpec(1, 10, 20, (0.0,), (1.0,))), grey, atol=1e-6
    )
    assert torch.equal(resize_and_crop(grey, InputSpec(1, 10, 10, (0.0,), (1.0,))), grey[..., 5:15])
    for interpolation in ("bilinear", "bicubic", "nearest"):
        resized = resize_and_crop(grey, InputSpec(1, 32, 7, (0.0,), (1.0,), interpolation))
        assert resized.shape == (2, 1, 32, 7)
        assert 0 <= resized.min() <= resized.max() <= 1
    with pytest.raises(UserError, match="4 channels do not fit a network that takes 3"):
        resize_and_crop(torch.zeros(1, 4, 5, 5), COLOUR)


def test_refuses_folders_in_one_line_that_names_them(tmp_path: Path):
    def refusal(**options) -> str:
        with pytest.raises(UserError) as error:
            ImageFolder(str(tmp_path / "root"), **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"dataset.root={tmp_path / 'root'}" in refusal()
    (tmp_path / "root" / "blue").mkdir(parents=True)
    assert "the folder blue alone" in refusal()
    (tmp_path / "root" / "red").mkdir()
    both = refusal()
    assert both.startswith("2 class folders cannot be used: ")
    assert "blue holds no image" in both
    assert "red holds no image" in both
    for name in ("blue", "red"):
        Image.new("RGB", (4, 4)).save(tmp_path / "root" / name / "0.png")
    assert "too few" in refusal()
    assert "dataset.validation_share=1.5" in refusal(validation_share=1.5)


def test_refuses_other_classes_beside_the_training_images_and_files_that_are_no_images(tmp_path: Path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", names=("blue", "green"))
    with pytest.raises(UserError, match="lack: green and lacks classes of the training images: red;"):
        ImageFolder(str(tmp_path))
    (tmp_path / "train" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"red/0\.png cannot be read as an image"):
        read_image(tmp_path / "train" / "red" / "0.png")
