"""Cluttered MNIST: a hard task made from the MNIST-5k images that no embedded network has seen."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.augmentation import Affine
from datamodules.base import ImageDataModule
from datamodules.batches import derived_generator
from datamodules.images import ImagesInMemory
from datamodules.mnist5k import DIGITS, pretraining_pool, read_mnist5k
from datamodules.splits import cut, stratified_order
from zoo.limits import above, at_least

SIDE = 32
PATCH = 6


class ClutteredMNIST(ImageDataModule):
    """Ten digits, turned, shrunk, shifted, with pieces of other digits beside them, partly hidden, and noisy.

    Each image is made once; the splits share neither digits nor distractors. 32 x 32 pixels: rotation up to 30 degrees
    either way, scale 0.75 to 1, shift up to 2 pixels, two 6 x 6 pieces of other images of the split, one black 6 x 6
    occluder, normal noise of standard deviation 0.1.

    Args:
        name: For reports.
        num_train: Images to learn from.
        num_validation: Images to choose by.
        num_test: Images for the last figure; None takes all others of the 2000.
        seed: Of the splits and of the clutter, too.
        crop_fraction: See `ImageDataModule`; the strokes reach the borders, so that nothing is cut off by default.
        options: See `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        name: str = "cluttered_mnist",
        num_train: Annotated[int | None, at_least(1)] = 600,
        num_validation: Annotated[int | None, at_least(1)] = 300,
        num_test: Annotated[int | None, at_least(1)] = None,
        seed: int = 0,
        crop_fraction: Annotated[float | None, above(0, 1)] = 1.0,
        **options: Any,
    ) -> None:
        images, labels = read_mnist5k()
        unseen = pretraining_pool()[1]
        order = unseen[stratified_order(labels[unseen], seed)]
        sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
        parts = dict(zip(("train", "val", "test"), cut(order, sizes).values(), strict=True))
        generators = {split: derived_generator(seed, "clutter", split) for split in parts}
        cluttered = [clutter(images[part], generators[split]) for split, part in parts.items()]
        source = ImagesInMemory(torch.cat(cluttered), labels[torch.cat(list(parts.values()))])
        splits = cut(torch.arange(len(source)), {split: len(part) for split, part in parts.items()})
        super().__init__(
            name=name,
            source=source,
            splits=splits,
            class_names=DIGITS,
            seed=seed,
            crop_fraction=crop_fraction,
            **options,
        )


def clutter(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 (n, 1, 32, 32) in [0, 1] out of digits (n, 1, 28, 28), white on black."""
    margin = (SIDE - digits.shape[-1]) // 2
    padded = F.pad(digits, (margin,) * 4)
    distort = Affine(rotation_degrees=30, shift=2 / SIDE, scale=(0.75, 1.0))
    images = distort(padded, torch.rand(len(digits), Affine.num_draws, generator=generator))
    for _ in range(2):
        others = padded[torch.randperm(len(padded), generator=generator)]
        piece = others[_windows(len(others), generator, low=8, high=SIDE - 8 - PATCH)]  # where the strokes are
        place = _windows(len(images), generator)
        images[place] = torch.maximum(images[place], piece)
    images[_windows(len(images), generator)] = 0
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _windows(
    count: int, generator: torch.Generator, low: int = 0, high: int = SIDE - PATCH
) -> tuple[Tensor, int, Tensor, Tensor]:
    """The index of one 6 x 6 window in each of `count` images, its corner anywhere in [low, high]."""
    corners = torch.randint(low, high + 1, (count, 2, 1, 1), generator=generator)
    offsets = torch.arange(PATCH)
    return torch.arange(count).view(-1, 1, 1), 0, corners[:, 0] + offsets[:, None], corners[:, 1] + offsets
