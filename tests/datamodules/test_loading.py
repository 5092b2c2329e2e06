"""What travels from files to networks, and that the fast way gives what the plain one gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImageDataModule, ImageFolder
from datamodules.augmentation import Augmentation, draw
from datamodules.batches import Batch
from datamodules.decoding import Decoding, decode
from datamodules.files import ImagesInFiles
from datamodules.images import Box, ImagesInMemory, normalise, resize_and_crop
from zoo.entries import InputSpec

SPEC = InputSpec(3, 32, 40, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bilinear", 0.9)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def folder(root: Path, size: tuple[int, int] = (90, 110), count: int = 8) -> Path:
    for index in range(2 * count):
        (root / "ab"[index % 2]).mkdir(exist_ok=True)
        Image.fromarray(photograph(*size, seed=index)).save(root / "ab"[index % 2] / f"{index}.jpg", quality=95)
    return root


def memory(images: Tensor, **options) -> ImageDataModule:
    indices = torch.arange(len(images))
    splits = {"train": indices[2:], "val": indices[:1], "test": indices[1:2]}
    source = ImagesInMemory(images, indices % 2)
    data = ImageDataModule(name="n", source=source, splits=splits, class_names="ab", **{"batch_size": 4, **options})
    data.use_input(SPEC)
    return data


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop": "random_resized", "flip": True},
        {"augmentation": "affine", "erasing": 0.5},
        {"augmentation": "trivial", "crop": "random_padded", "brightness": 0.3},
    ],
    ids=str,
)
def test_bytes_travel_and_are_finished_where_they_arrive(tmp_path: Path, options: dict) -> None:
    data = ImageFolder(str(folder(tmp_path)), batch_size=5, **options)
    data.use_input(SPEC)
    loader = data.train_dataloader()
    for batch, (images, labels) in zip(loader.unfinished(), loader, strict=True):
        assert isinstance(batch, Batch)
        assert batch.images.dtype == torch.uint8
        for memory_format in (torch.contiguous_format, torch.channels_last):
            finished, own, index = batch.to("cpu").finish(memory_format)
            assert torch.equal(finished, images)
            assert torch.equal(own, labels)
            assert finished.is_contiguous(memory_format=memory_format)
        assert torch.equal(data.labels("train")[index], labels)


def test_a_batch_is_finished_once_and_stays_as_it_is() -> None:
    for images in (torch.rand(6, 3, 32, 40), torch.randint(256, (6, 3, 50, 60), dtype=torch.uint8)):
        data = memory(images)
        batch = next(iter(data.train_dataloader().unfinished()))
        before = batch.images.clone()
        assert torch.equal(batch.finish()[0], batch.finish()[0])
        assert torch.equal(batch.images, before)


def test_evaluation_sees_the_pixels_that_a_file_holds(tmp_path: Path) -> None:
    data = ImageFolder(str(folder(tmp_path)))
    images, _ = data.images("train", SPEC)
    for index, image in zip(data._splits["train"].tolist(), images, strict=True):
        pixels = np.asarray(Image.open(data._source.path(index)).convert("RGB"))
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        assert torch.equal(normalise(resize_and_crop(whole, SPEC), SPEC)[0], image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_random_crops_are_those_of_torchvision(interpolation: str, tmp_path: Path) -> None:
    from torchvision.transforms import InterpolationMode, v2

    spec = InputSpec(3, 32, 40, SPEC.mean, SPEC.std, interpolation)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop((32, 40), scale=(0.3, 1.0), interpolation=InterpolationMode(interpolation)),
            v2.RandomHorizontalFlip(),
        ]
    )
    data = ImageFolder(str(folder(tmp_path)))
    transform = Augmentation(crop="random_resized", flip=True, min_crop_area=0.3).transform(spec)
    for seed in range(12):
        pixels = decode(data._source.path(seed), Decoding()).pixels
        assert torch.equal(draw(transform, seed, data._source, seed), draw(theirs, seed, pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_a_large_photograph_is_decoded_smaller_and_shows_the_same(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(400, 640)).save(path, quality=95, exif=exif)
    whole = decode(path, Decoding()).pixels
    sizes = []

    def window(least: int) -> Tensor:
        def choose(height: int, width: int) -> Box:
            sizes.append((height, width))
            return Box(80, 120, 240, 200, least)

        return decode(path, Decoding(), choose).pixels

    assert torch.equal(window(least=101), whole[:, 80:320, 120:320])
    for least, side in ((50, 2), (25, 4), (12, 8)):
        small = window(least)
        assert small.shape == (3, 240 // side, 200 // side)
        expected = torch.nn.functional.avg_pool2d(whole[:, 80:320, 120:320].float(), side)
        assert float((small.float() - expected).abs().mean()) < 4
    assert set(sizes) == {tuple(whole.shape[1:])}


def test_other_files_are_cut_too(tmp_path: Path) -> None:
    image = Image.fromarray(photograph(60, 80))
    image.save(tmp_path / "0.png")
    image.convert("L").save(tmp_path / "1.jpg")
    image.convert("RGBA").save(tmp_path / "2.webp", lossless=True)
    source = ImagesInFiles(tmp_path, ["0.png", "1.jpg", "2.webp"], torch.zeros(3, dtype=torch.int64))
    for index in range(3):
        part = source.window(index, lambda height, width: Box(5, 10, height - 20, width - 30, 1))
        assert torch.equal(part, source.image(index)[:, 5:45, 10:60])


@pytest.mark.parametrize("batch_size", [7, 8, 16])
def test_a_process_gets_two_sizes_of_batches_at_most(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    import torch.distributed as dist

    data = memory(torch.zeros(61, 1, 4, 4, dtype=torch.uint8), batch_size=batch_size)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        assert 1 <= len({len(labels) for _, labels in data.train_dataloader()}) <= 2
