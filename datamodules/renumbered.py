"""The images of a data module under the numbers that a network's outputs have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.images import LabelledImages
from zoo.entries import InputSpec


class Renumbered(ImageDataModule):
    """A data module whose labels are numbered by other class names; images of other classes are left out.

    Args:
        parent: Where the images come from.
        classes: Names by their new labels; of some of them there may be no image.
    """

    def __init__(self, parent: ImageDataModule, classes: Sequence[str]) -> None:
        source = _Renumbered(parent._source, parent.class_names, classes)
        splits = {split: indices[source.labels[indices] >= 0] for split, indices in parent._splits.items()}
        super().__init__(
            name=parent.name,
            source=source,
            splits=splits,
            class_names=classes,
            seed=parent.seed,
            split_rule=parent._split_rule,
            **parent.options,
        )
        self.input = parent.input


class _Renumbered(LabelledImages):
    """The images of another source; -1 marks those of no class."""

    def __init__(self, source: LabelledImages, given: Sequence[str], wanted: Sequence[str]) -> None:
        self._source = source
        numbers = {name: label for label, name in enumerate(wanted)}
        self.labels = torch.tensor([numbers.get(name, -1) for name in given])[source.labels]
        content = "\0".join([source.digest, *given, "", *wanted])
        self.digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        self.digest_covers, self.sizes_vary = source.digest_covers, source.sizes_vary

    def listed(self, index: int) -> tuple[str, int, int]:
        return self._source.listed(index)

    def image(self, index: int) -> Tensor:
        return self._source.image(index)

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        return self._source.load(indices, spec)
