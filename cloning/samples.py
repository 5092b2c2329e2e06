"""Labelled images of a cloned network's classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules import ImageDataModule
from zoo.entries import InputSpec

BATCH_SIZE = 256
"""Images that run at once where no gradient is kept."""

MAX_IMAGES = 4096
"""Of the validation split when heads and positions are compared, and of any for similarities; stratified."""


@dataclass(frozen=True)
class Samples:
    """Images preprocessed for the target (n, C, H, W) and labels (n,) by the cloned network's classes."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Samples:
        """The same on a device."""
        return Samples(self.images.to(device), self.labels.to(device))

    @classmethod
    def joined(cls, parts: Iterable[Samples]) -> Samples:
        """Those of all parts, in one."""
        held = list(parts)
        return cls(torch.cat([part.images for part in held]), torch.cat([part.labels for part in held]))

    def of(self, labels: Sequence[int]) -> Samples:
        """Only the samples of some labels, renumbered in the order given."""
        index = torch.full((int(max([*labels, *self.labels.tolist(), 0])) + 1,), -1)
        index[list(labels)] = torch.arange(len(labels))
        renamed = index.to(self.labels.device)[self.labels]
        return Samples(self.images[renamed >= 0], renamed[renamed >= 0])


def correction_samples(data: ImageDataModule, spec: InputSpec, num_copies: int) -> Iterator[Samples]:
    """The training images, and then so many distorted copies of them all, as the data is augmented or ``affine``.

    Few images of a class, which the network may have been trained on besides, say little of how its features vary.
    """
    yield Samples(*data.images("train", spec))
    for epoch in range(num_copies):
        yield Samples(*data.images("train", spec, augmented_epoch=epoch))
