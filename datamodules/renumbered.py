"""The images of a data module under the numbers that a network's outputs have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.images import ChooseBox, LabelledImages
from zoo.entries import InputSpec


class Renumbered(ImageDataModule):
    """A data module whose labels are numbered by other class names; images of other classes are left out.

    Args:
        parent: Where the images come from.
        classes: Names by their new labels; of some of them there may be no image.
    """

    def __init__(self, parent: ImageDataModule, classes: Sequence[str]) -> None:
        given = list(parent.class_names)
        source = Relabelled(parent._source, [given.index(name) if name in given else -1 for name in classes])
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


class Relabelled(LabelledImages):
    """The images of another source under other labels; -1 marks those of no class.

    Args:
        source: Where the images come from.
        old_labels: By new label, the label there; -1 where it has no such class.
    """

    def __init__(self, source: LabelledImages, old_labels: Sequence[int]) -> None:
        self._source = source
        self.labels = torch.full_like(source.labels, -1)
        for label, old in enumerate(old_labels):
            if old >= 0:
                self.labels[source.labels == old] = label
        content = f"{source.digest}\0{list(old_labels)}"
        self.digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        self.digest_covers, self.sizes_vary = source.digest_covers, source.sizes_vary

    def listed(self, index: int) -> tuple[str, int, int]:
        return self._source.listed(index)

    def keys(self) -> Tensor:
        return self._source.keys()

    def image(self, index: int) -> Tensor:
        return self._source.image(index)

    def window(self, index: int, choose: ChooseBox) -> Tensor:
        return self._source.window(index, choose)

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        return self._source.load(indices, spec)
