from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.augmentation import Affine
from datamodules.images import ImagesInMemory
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(1, 8, 8, (0.5,), (0.25,))


def data_of(num_train: int = 23, **options) -> ImageDataModule:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(num_train + 8, 1, 8, 8, generator=generator), torch.arange(num_train + 8) % 2
    indices = torch.arange(num_train + 8)
    splits = {"train": indices[:num_train], "val": indices[num_train : num_train + 5], "test": indices[num_train + 5 :]}
    data = ImageDataModule(
        name="noise", source=ImagesInMemory(images, labels), splits=splits, class_names="ab", **options
    )
    data.use_input(SPEC)
    return data


def epoch(data: ImageDataModule, number: int, split: str = "train") -> list[Tensor]:
    loader = getattr(data, f"{split}_dataloader")()
    loader.batch_sampler.set_epoch(number)
    return [images for images, _ in loader]


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_images_are_normalised_and_in_a_fixed_order():
    data = data_of()
    images, labels = data.images("val", SPEC)
    assert torch.allclose(images * 0.25 + 0.5, data._source.images[23:28])
    assert labels.tolist() == [1, 0, 1, 0, 1]
    assert torch.equal(torch.cat(epoch(data, 5, "val")), images)
    assert torch.equal(data.images("train", SPEC, limit=4)[0], data.images("train", SPEC)[0][:4])
    assert len(data.images("train", SPEC, limit=1000)[0]) == 23


@pytest.mark.parametrize(("batch_size", "sizes"), [(8, [8, 8, 7]), (23, [23]), (100, [23]), (22, [12, 11])])
def test_every_epoch_gives_every_image_once_in_batches_of_like_size(batch_size: int, sizes: list[int]):
    data = data_of(batch_size=batch_size)
    batches = epoch(data, 0)
    assert [len(batch) for batch in batches] == sizes
    assert len(data.train_dataloader()) == len(sizes)
    assert as_set(torch.cat(batches)) == as_set(data.images("train", SPEC)[0])


def test_epochs_differ_and_an_epoch_entered_anew_is_the_same():
    data = data_of(augmentation="affine", batch_size=8)
    straight = [torch.cat(epoch(data, number)) for number in range(3)]
    assert torch.equal(torch.cat(epoch(data_of(augmentation="affine", batch_size=8), 2)), straight[2])
    assert not as_set(straight[0]) & as_set(straight[1])
    assert not torch.equal(torch.cat(epoch(data_of(augmentation="affine", batch_size=8, seed=1), 0)), straight[0])


def test_an_augmented_image_depends_on_epoch_and_position_not_on_its_batch():
    coarse, fine = (data_of(augmentation="affine", batch_size=size) for size in (23, 3))
    assert as_set(torch.cat(epoch(coarse, 4))) == as_set(torch.cat(epoch(fine, 4)))
    assert as_set(coarse.images("train", SPEC, augmented_epoch=4)[0]) == as_set(torch.cat(epoch(coarse, 4)))


def test_evaluation_is_never_augmented():
    data = data_of(augmentation="affine")
    for split in ("val", "test"):
        assert torch.equal(torch.cat(epoch(data, 1, split)), data_of().images(split, SPEC)[0])
    assert torch.equal(data.images("train", SPEC)[0], data_of().images("train", SPEC)[0])
    assert data.digest == data_of().digest


def test_workers_that_outlive_an_epoch_give_the_images_of_the_next():
    alone, helped = data_of(augmentation="affine"), data_of(augmentation="affine", num_workers=1)
    loader = helped.train_dataloader()
    for number in (0, 1):
        loader.batch_sampler.set_epoch(number)
        assert torch.equal(torch.cat([images for images, _ in loader]), torch.cat(epoch(alone, number)))


def test_loaders_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch(data_of(augmentation="affine"), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_shares_of_the_processes_make_up_the_batches_of_one(monkeypatch: pytest.MonkeyPatch, num_processes: int):
    whole = epoch(data_of(batch_size=8, augmentation="affine"), 3)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: num_processes)
    shares = []
    for rank in range(num_processes):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(epoch(data_of(batch_size=8, augmentation="affine"), 3))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert as_set(torch.cat(parts)) == as_set(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    monkeypatch.setattr(dist, "get_world_size", lambda: 9)
    with pytest.raises(UserError, match=r"trainer\.devices"):
        epoch(data_of(batch_size=8), 0)


def test_lightning_shows_every_epoch_its_own_images(tmp_path: Path):
    class Recorder(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.seen.append(batch[0])
            return self.weight * 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data, recorder = data_of(augmentation="affine", batch_size=23), Recorder()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises workers
        trainer.fit(recorder, train_dataloaders=data.train_dataloader())
    for number, images in enumerate(recorder.seen):
        assert torch.equal(images, epoch(data, number)[0])


def test_affine_turns_scales_and_shifts_as_far_as_told():
    images = torch.zeros(1, 1, 33, 33)
    images[0, 0, 16, 26] = 1  # ten pixels to the right of the centre
    half, most = 0.5, 1 - 1e-9

    def place(affine: Affine, draws: list[float]) -> tuple[float, float]:
        moved = affine(images, torch.tensor([draws]))[0, 0]
        rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
        return float((moved * rows).sum() / moved.sum()) - 16, float((moved * columns).sum() / moved.sum()) - 16

    still = Affine(rotation_degrees=0, shift=0, scale=(1, 1))
    assert place(still, [half] * 4) == pytest.approx((0, 10), abs=1e-4)
    turned = place(Affine(rotation_degrees=30, shift=0, scale=(1, 1)), [most, half, half, half])
    assert math.degrees(math.atan2(abs(turned[0]), turned[1])) == pytest.approx(30, abs=3)
    assert place(Affine(0, 0, (0.5, 1)), [half, 0, half, half])[1] == pytest.approx(5, abs=0.5)
    assert abs(place(Affine(0, 2 / 33, (1, 1)), [half, half, most, half])[1] - 10) == pytest.approx(2, abs=0.1)
    assert abs(place(Affine(0, 2 / 33, (1, 1)), [half, half, half, 0])[0]) == pytest.approx(2, abs=0.1)


def test_affine_keeps_shapes_when_it_turns_images_that_are_not_square():
    images = torch.zeros(1, 1, 21, 41)
    images[0, 0, 10, 25] = 1  # five pixels to the right of the centre: turned by 90 degrees, five up or down
    moved = Affine(rotation_degrees=90, shift=0, scale=(1, 1))(images, torch.tensor([[1 - 1e-9, 0.5, 0.5, 0.5]]))
    assert divmod(int(moved.flatten().argmax()), 41) in {(5, 20), (15, 20)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "dataset.batch_size=0"),
        ({"num_workers": -1}, "dataset.num_workers=-1"),
        ({"augmentation": "afine"}, "did you mean 'affine'"),
    ],
)
def test_refuses_wrong_settings(options: dict, told: str):
    with pytest.raises(UserError, match=told):
        data_of(**options)
