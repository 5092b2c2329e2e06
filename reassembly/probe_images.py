"""The images that networks are looked at with: always of the training split, on the device of the search."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from datamodules import ImageDataModule
from zoo.chain.batches import Batches, Rows
from zoo.entries import InputSpec

MAX_PROBE_BYTES = 2**30
"""Probe images in memory; more are read anew in each pass."""
PROBE_BATCH_SIZE = 64


class ProbeImages:
    """The probe images as networks take them; those of the last input stay in memory.

    Args:
        data: The task.
        device: Where they are given.
    """

    def __init__(self, data: ImageDataModule, device: torch.device) -> None:
        self.data, self.device = data, device
        self.labelled = lru_cache(maxsize=1)(self._labelled)

    def rows(self, spec: InputSpec, limit: int) -> Rows:
        """At most ``limit`` of them, (n, C, H, W): in memory while they take ``MAX_PROBE_BYTES`` there."""
        count = min(limit, self.data.num_images("train"))
        if count * spec.example().nbytes <= MAX_PROBE_BYTES:
            return self.labelled(spec, limit)[0]

        def read() -> Iterator[Tensor]:
            for batch in self.data.image_batches("train", spec, limit, batch_size=PROBE_BATCH_SIZE):
                yield batch.to(self.device)

        return Batches(count, read)

    def _labelled(self, spec: InputSpec, limit: int) -> tuple[Tensor, Tensor]:
        """In memory, with their labels (n,) on the CPU."""
        images, labels = self.data.images("train", spec, limit=limit)
        return images.to(self.device), labels
