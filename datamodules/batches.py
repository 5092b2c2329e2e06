"""Seeded batches: what a loader gives depends on seed, epoch and position alone, in any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.augmentation import Affine, Augmentation, draw
from datamodules.images import LabelledImages, normalise
from zoo.entries import InputSpec
from zoo.errors import UserError


class Split(Dataset):
    """The images of one split as a network takes them, and their labels.

    Args:
        source: All images.
        indices: Which of them belong to the split, int64 (n,).
        spec: What the network takes.
        augmentation: How the images are brought to `spec`, and varied anew in each epoch where it says so.
        seed: Of the augmentation.
    """

    def __init__(
        self, source: LabelledImages, indices: Tensor, spec: InputSpec, augmentation: Augmentation, seed: int
    ) -> None:
        self._source, self._indices, self._spec = source, indices, spec
        self._augmentation, self._seed = augmentation, seed
        augmentation.require_fits(spec)
        self._transform = augmentation.transform(spec) if augmentation.transforms_images else None
        # Shared, so that worker processes that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._draws: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        images, labels = self.images([position])
        return images[0], labels[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.images(positions), strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation's draws."""
        self._epoch.fill_(epoch)

    def images(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Float32 images (k, C, H, W) and int64 labels (k,)."""
        positions = torch.as_tensor(positions, dtype=torch.int64)
        chosen = self._indices[positions]
        if self._transform is None:
            images = self._source.load(chosen.tolist(), self._spec)
        else:
            images = torch.stack([self._transformed(*both) for both in zip(positions, chosen, strict=True)])
        if self._augmentation.policy == "affine":
            images = Affine()(images, self._epoch_draws()[positions])
        if self._augmentation.erasing:
            images = torch.stack([self._erased(*both) for both in zip(positions, images, strict=True)])
        return normalise(images, self._spec), self._source.labels[chosen]

    def _transformed(self, position: Tensor, index: Tensor) -> Tensor:
        seed = derived_seed(self._seed, "augmentation", int(self._epoch), int(position))
        return draw(self._transform, self._source.image(int(index)), seed)

    def _erased(self, position: Tensor, image: Tensor) -> Tensor:
        seed = derived_seed(self._seed, "erasing", int(self._epoch), int(position))
        return draw(partial(self._augmentation.erase, spec=self._spec), image, seed)

    def _epoch_draws(self) -> Tensor:
        epoch = int(self._epoch)
        if self._draws is None or self._draws[0] != epoch:
            generator = derived_generator(self._seed, "augmentation", epoch)
            self._draws = epoch, torch.rand(len(self), Affine.num_draws, generator=generator)
        return self._draws[1]


class BatchOrder(Sampler[list[int]]):
    """Batches of positions whose sizes differ by one at most; each of the processes gets its share of every batch.

    No image is left out and no batch is tiny, so that BatchNorm always has something to measure. The union of the
    processes' shares is the batch that one process would get.

    Args:
        split: Told the epoch.
        batch_size: Most images of a batch, over all processes.
        shuffle: Whether every epoch has an order of its own.
        seed: Of the order.
    """

    def __init__(self, split: Split, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self._split, self._shuffle, self._seed, self._epoch = split, shuffle, seed, 0
        self._num_batches = -(-len(split) // batch_size)
        self.sampler = self  # where Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        distributed = dist.is_available() and dist.is_initialized()
        rank, num_processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        order = torch.arange(len(self._split))
        if self._shuffle:
            order = torch.randperm(len(order), generator=derived_generator(self._seed, "order", self._epoch))
        for batch in order.tensor_split(self._num_batches):
            if len(batch) < num_processes:
                raise UserError(
                    f"a batch of {len(batch)} images cannot be shared by {num_processes} processes; "
                    f"raise dataset.batch_size or lower trainer.devices"
                )
            yield batch[rank::num_processes].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order, and the split's augmentation."""
        self._epoch = epoch
        self._split.set_epoch(epoch)


class ImageLoader(DataLoader):
    """A loader whose faults in worker processes are told in one line."""

    def __iter__(self) -> Iterator[Any]:
        """Batches as the data set gives them.

        Raises:
            UserError: What a worker raised, without the worker's traceback; a worker that was killed.
        """
        try:
            yield from super().__iter__()
        except UserError as error:  # the worker's traceback stands before the message
            told = str(error).strip().splitlines()[-1]
            kind = type(error)
            raise kind(told.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = " ".join(str(error).splitlines()[-1].split())
            raise UserError(
                f"a process that loads images was killed ({reason}), mostly for want of memory or of shared memory "
                f"(/dev/shm): lower dataset.num_workers={self.num_workers} or dataset.batch_size, or type "
                "dataset.num_workers=0"
            ) from error


def derived_generator(*parts: object) -> torch.Generator:
    """A generator of the parts' `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def derived_seed(*parts: object) -> int:
    """A hash of the parts, so that neighbouring seeds, epochs and positions are independent; below 2**63."""
    name = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
