from __future__ import annotations

import random
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from datamodules import ImageDataModule, ImageFolder
from datamodules.augmentation import Augmentation, draw, erase
from datamodules.images import ImagesInMemory, resize_and_crop
from zoo.entries import InputSpec
from zoo.errors import UserError

COLOUR = InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3, "bicubic")
GREY = InputSpec(1, 16, 16, (0.0,), (1.0,))
PHOTOS = {"augmentation": "trivial", "crop": "random_resized", "flip": True}
EVERY = [
    PHOTOS,
    {"augmentation": "randaugment"},
    {"crop": "random_padded", "flip": True},
    {"augmentation": "affine", "crop": "random_resized"},
    {"augmentation": "affine", "erasing": 0.7},
    {"augmentation": "randaugment", "num_ops": 1, "magnitude": 30, "brightness": 0.4, "contrast": 0.4, "erasing": 0.5},
]
JITTER = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.5, "hue": 0.1}


def noise(num_images: int = 12, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_images, channels, 24, 20), generator=generator, dtype=torch.uint8)


def data_of(images: Tensor | None = None, spec: InputSpec = COLOUR, **options) -> ImageDataModule:
    images = noise() if images is None else images
    indices = torch.arange(len(images))
    splits = {"train": indices[:8], "val": indices[8:10], "test": indices[10:]}
    source = ImagesInMemory(images, indices % 2)
    data = ImageDataModule(name="noise", source=source, splits=splits, class_names="ab", **options)
    data.use_input(spec)
    return data


def epoch(data: ImageDataModule, number: int) -> list[Tensor]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    return [images for images, _ in loader]


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_an_image_depends_on_seed_epoch_and_position_alone(options: dict) -> None:
    whole = data_of(**options).images("train", COLOUR, augmented_epoch=3)[0]
    for batch_size in (1, 3, 8):
        assert as_set(torch.cat(epoch(data_of(batch_size=batch_size, **options), 3))) == as_set(whole)
    again = data_of(**options)
    epoch(again, 0)
    assert as_set(torch.cat(epoch(again, 3))) == as_set(whole)
    assert not torch.equal(data_of(**options).images("train", COLOUR, augmented_epoch=4)[0], whole)
    assert not torch.equal(data_of(seed=1, **options).images("train", COLOUR, augmented_epoch=3)[0], whole)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_that_share_a_batch_draw_what_one_process_draws(
    monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    whole = epoch(data_of(batch_size=4, **PHOTOS), 3)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: num_processes)
    shares = []
    for rank in range(num_processes):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(epoch(data_of(batch_size=4, **PHOTOS), 3))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert as_set(torch.cat(parts)) == as_set(batch)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_a_worker_process_may_be_started_anew(options: dict) -> None:
    split = data_of(**options)._split("train", COLOUR, augmented=True)
    assert torch.equal(ForkingPickler.loads(ForkingPickler.dumps(split)).images([2, 5])[0], split.images([2, 5])[0])


def test_worker_processes_draw_what_one_process_draws() -> None:
    options = {**PHOTOS, **JITTER, "augmentation": "randaugment", "num_ops": 3, "magnitude": 12, "erasing": 0.5}
    alone, helped = data_of(batch_size=2, **options), data_of(batch_size=2, num_workers=2, **options)
    loader = helped.train_dataloader()
    for number in (0, 1):
        loader.batch_sampler.set_epoch(number)
        assert torch.equal(torch.cat([images for images, _ in loader]), torch.cat(epoch(alone, number)))


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_no_generator_of_the_process_is_read_or_moved(options: dict) -> None:
    def states() -> tuple:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    expected = torch.cat(epoch(data_of(**options), 0))
    torch.manual_seed(7)
    before = states()
    assert torch.equal(torch.cat(epoch(data_of(**options), 0)), expected)
    assert states() == before


def test_a_failing_transform_leaves_the_generator_as_it_was() -> None:
    def fail(image: Tensor) -> Tensor:
        torch.rand(1)
        raise RuntimeError("broken")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        draw(fail, 3, torch.zeros(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_ignores_how_training_images_are_varied() -> None:
    varied, plain = data_of(**PHOTOS), data_of()
    for split in ("train", "val", "test"):
        assert torch.equal(varied.images(split, COLOUR)[0], plain.images(split, COLOUR)[0])
    assert varied.digest == plain.digest
    assert (varied.augmentation is None, plain.augmentation is None) == (False, True)
    assert data_of(flip=True).augmentation is not None  # tuning must not keep outputs of images that vary


def test_every_channel_count_and_interpolation_gives_what_the_network_takes() -> None:
    floats = torch.rand(12, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    for images in (noise(channels=1), noise(channels=3), floats):
        for spec in (GREY, COLOUR, InputSpec(3, 5, 33, (0.0,) * 3, (1.0,) * 3, "nearest")):
            for options in EVERY:
                varied = data_of(images, spec, **options).images("train", spec, augmented_epoch=0)[0]
                assert varied.shape == (8, spec.channels, spec.height, spec.width)
                unit = varied * spec.std[0] + spec.mean[0]
                assert -1e-5 <= unit.min() <= unit.max() <= 1 + 1e-5


def test_flips_about_half_and_keeps_the_rest() -> None:
    images = noise(num_images=400)
    indices = torch.arange(400)
    splits = {"train": indices, "val": indices[:1], "test": indices[:1]}
    spec = InputSpec(3, 24, 20, (0.0,) * 3, (1.0,) * 3)
    data = ImageDataModule(
        name="n", source=ImagesInMemory(images, indices % 2), splits=splits, class_names="ab", flip=True
    )
    varied, plain = data.images("train", spec, augmented_epoch=0)[0], data.images("train", spec)[0]
    same = (varied == plain).flatten(1).all(dim=1)
    mirrored = (varied == plain.flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_random_crops_differ_and_keep_the_share_asked_for() -> None:
    ramp = torch.arange(100, dtype=torch.float32).expand(1, 100, 100) / 99  # brightness says the column
    source = ImagesInMemory(ramp[None], torch.zeros(1, dtype=torch.int64))
    spec = InputSpec(1, 50, 50, (0.0,), (1.0,), "nearest")
    transform = Augmentation(crop="random_resized", min_crop_area=0.5).transform(spec)
    widths = [float(crop.max() - crop.min()) for crop in (draw(transform, seed, source, 0) for seed in range(50))]
    assert min(widths) > (0.5 * 0.75) ** 0.5 - 0.05
    assert max(widths) - min(widths) > 0.1
    shifted = [draw(Augmentation(crop="random_padded").transform(spec), seed, source, 0) for seed in range(50)]
    lowest = {int((image[0, 25] == 0).sum()) for image in shifted}
    assert max(lowest) <= 7  # an eighth of the side, and the column that is black anyway
    assert len(lowest) > 3


@pytest.mark.parametrize("channels", [1, 3])
def test_erasing_paints_rectangles_of_the_mean_colour_over_as_many_images_as_asked_for(channels: int) -> None:
    images = noise(num_images=300, channels=channels)
    indices = torch.arange(300)
    spec = InputSpec(channels, 24, 20, (0.25,) * channels, (0.5,) * channels)
    splits = {"train": indices, "val": indices[:1], "test": indices[:1]}
    source = ImagesInMemory(images, indices % 2)
    data = ImageDataModule(name="n", source=source, splits=splits, class_names="ab", erasing=0.3)
    varied, plain = data.images("train", spec, augmented_epoch=0)[0], data.images("train", spec)[0]
    changed = (varied != plain).any(dim=1)
    erased = changed.flatten(1).any(dim=1)
    assert 60 < int(erased.sum()) < 120
    assert varied.permute(0, 2, 3, 1)[changed].abs().max() < 1e-6  # the mean, normalised
    for mask in changed[erased]:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        area = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert mask.sum() > 0.9 * area  # one rectangle, but for pixels that had that colour
        assert 0.01 < area / mask.numel() < 0.36


def test_rectangles_are_erased_as_torchvision_erases_them() -> None:
    from torchvision.transforms import v2

    spec = InputSpec(3, 16, 20, (0.2, 0.4, 0.6), (1.0,) * 3)
    white = torch.ones(60, 3, 16, 20)
    augmentation, theirs = Augmentation(erasing=0.7), v2.RandomErasing(0.7, value=list(spec.mean))
    rectangles = torch.stack([draw(augmentation.erased, seed, spec) for seed in range(60)])
    expected = torch.stack([draw(theirs, seed, image) for seed, image in enumerate(white)])
    assert torch.equal(erase(white, rectangles, spec), expected)
    assert 0 < int((rectangles.sum(1) == 0).sum()) < 30


def test_colour_jitter_stays_within_its_strength() -> None:
    image = ImagesInMemory(torch.full((1, 1, 16, 16), 0.5), torch.zeros(1, dtype=torch.int64))
    transform = Augmentation(brightness=0.4).transform(InputSpec(1, 16, 16, (0.0,), (1.0,)))
    values = torch.stack([draw(transform, seed, image, 0)[0, 0, 0] for seed in range(60)])
    assert 0.3 - 1e-5 <= values.min() < 0.35
    assert 0.65 < values.max() <= 0.7 + 1e-5


def test_magnitude_and_number_of_operations_reach_randaugment() -> None:
    def strength(**options: int) -> float:
        transform = Augmentation("randaugment", **options).transform(COLOUR)
        plain = Augmentation().transform(COLOUR)
        source = ImagesInMemory(noise(60), torch.zeros(60, dtype=torch.int64))
        pairs = ((draw(transform, seed, source, seed), plain(source, seed)) for seed in range(60))
        return sum(float((varied.float() - image.float()).abs().mean()) for varied, image in pairs)

    assert strength(magnitude=0) < 0.8 * strength(magnitude=20)
    assert strength(num_ops=1) < strength(num_ops=4)


def test_crop_fraction_cuts_the_middle_out_and_is_part_of_the_digest() -> None:
    image = torch.zeros(1, 1, 80, 80)
    image[..., 10:70, 10:70] = 1
    spec = InputSpec(1, 60, 60, (0.0,), (1.0,))
    assert float(resize_and_crop(image, replace(spec, crop_pct=0.75)).mean()) == pytest.approx(1)
    assert float(resize_and_crop(image, spec).mean()) == pytest.approx(0.5625, abs=0.01)
    assert data_of(crop_fraction=0.875).digest != data_of().digest == data_of(crop_fraction=1).digest
    whole, middle = (data_of(crop_fraction=share).images("val", COLOUR)[0] for share in (1.0, 0.5))
    assert not torch.equal(whole, middle)


def test_image_files_are_varied_from_their_full_size(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = generator.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    alone, helped = (ImageFolder(str(tmp_path), batch_size=3, num_workers=count, **PHOTOS) for count in (0, 1))
    for data in (alone, helped):
        data.use_input(COLOUR)
    assert torch.equal(torch.cat(epoch(alone, 2)), torch.cat(epoch(helped, 2)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"augmentation": "randaugmnt"}, "dataset.augmentation=randaugmnt is unknown: did you mean 'randaugment'"),
        ({"crop": "centre"}, "dataset.crop=centre is unknown: did you mean 'center'"),
        ({"flip": 1}, "dataset.flip=1: expected true or false"),
        ({"min_crop_area": 0}, "dataset.min_crop_area=0: expected a share above 0 and at most 1"),
        ({"crop_fraction": 1.2}, "dataset.crop_fraction=1.2: expected a share above 0 and at most 1"),
        ({"magnitude": 31}, "dataset.magnitude=31: expected at most 30"),
        ({"num_ops": 0}, "dataset.num_ops=0: expected at least 1"),
        ({"magnitude": 5}, "dataset.magnitude=5 is of RandAugment: leave it out, or type dataset.augmentation=rand"),
        ({"erasing": 1.5}, "dataset.erasing=1.5: expected a number from 0 to 1"),
        ({"hue": 0.6}, "dataset.hue=0.6: expected a number from 0 to 0.5"),
        ({"contrast": True}, "dataset.contrast=True: expected a number from 0 to 1"),
        ({"batch_size": "many"}, "dataset.batch_size=many: expected a whole number"),
        ({"batch_size": True}, "dataset.batch_size=True: expected a whole number"),
        ({"num_workers": 1.5}, "dataset.num_workers=1.5: expected a whole number"),
        ({"pin_memory": "on"}, "dataset.pin_memory=on: expected true or false"),
        ({"persistent_workers": None}, "dataset.persistent_workers=None: expected true or false"),
    ],
)
def test_refuses_wrong_settings(options: dict, told: str) -> None:
    with pytest.raises(UserError) as error:
        data_of(**options)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("key", ["saturation", "hue"])
def test_grey_images_have_no_colours_to_vary(key: str) -> None:
    told = rf"^dataset\.{key}=0.4 is for colour images, the network takes one channel: type dataset\.{key}=0$"
    with pytest.raises(UserError, match=told):
        data_of(spec=GREY, **{key: 0.4})


def test_policies_are_for_grey_and_colour() -> None:
    spec = InputSpec(4, 16, 16, (0.0,) * 4, (1.0,) * 4)
    with pytest.raises(UserError, match=r"the network takes 4 channels: type dataset\.augmentation=affine"):
        data_of(noise(channels=4), spec, augmentation="trivial")
    with pytest.raises(UserError, match=r"the network takes 4 channels: type dataset\.contrast=0"):
        data_of(noise(channels=4), spec, contrast=0.4)
    assert (
        data_of(noise(channels=4), spec, crop="random_padded").images("train", spec, augmented_epoch=0)[0].shape[1] == 4
    )
