"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8, part of the package."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch

from datamodules.base import ImageDataModule
from datamodules.images import ImagesInMemory
from datamodules.splits import cut, stratified_order
from zoo.limits import above, at_least
from zoo.storage.files import installed_file


class Digits(ImageDataModule):
    """Ten digits, 1797 images.

    Args:
        name: For reports.
        num_train: Images to learn from.
        num_validation: Images to choose by.
        num_test: Images for the last figure; None takes all others.
        seed: Of the splits, too.
        crop_fraction: See `ImageDataModule`; the strokes reach the borders, so that nothing is cut off by default.
        options: See `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        name: str = "digits",
        num_train: Annotated[int | None, at_least(1)] = 300,
        num_validation: Annotated[int | None, at_least(1)] = 300,
        num_test: Annotated[int | None, at_least(1)] = None,
        seed: int = 0,
        crop_fraction: Annotated[float | None, above(0, 1)] = 1.0,
        **options: Any,
    ) -> None:
        rows = np.loadtxt(installed_file("sklearn", "datasets/data/digits.csv.gz"), delimiter=",", dtype=np.uint8)
        images = torch.from_numpy(rows[:, :-1]).float().view(-1, 1, 8, 8) / 16
        source = ImagesInMemory(images, torch.from_numpy(rows[:, -1]).long())
        sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
        train, val, test = cut(stratified_order(source.labels, seed), sizes).values()
        splits = {"train": train, "val": val, "test": test}
        super().__init__(
            name=name,
            source=source,
            splits=splits,
            class_names="0123456789",
            seed=seed,
            crop_fraction=crop_fraction,
            **options,
        )
