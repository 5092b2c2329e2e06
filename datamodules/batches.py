"""Seeded batches: what a loader gives depends on seed, epoch and position alone, in any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.augmentation import Affine, Augmentation, draw, erase
from datamodules.images import LabelledImages, empty, normalise_, stack
from zoo.entries import InputSpec
from zoo.errors import UserError


@dataclass(frozen=True, eq=False)
class Batch:
    """Images on their way from a file to a network: as bytes where they are kept so, to be finished where they arrive.

    Attributes:
        images: (k, C, H, W) of the network's size, uint8 or float32 in [0, 1].
        labels: int64 (k,).
        index: int64 (k,), positions in the split.
        spec: What the network takes.
        draws: (k, 4) of `Affine`; None leaves the images as they are.
        erased: (k, 4) rectangles, see `augmentation.erase`; None leaves the images whole.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    spec: InputSpec
    draws: Tensor | None = None
    erased: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch where a GPU reads it faster."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def finish(self, memory_format: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor, Tensor]:
        """Float32 images as the network takes them, labels and index, where the batch lies."""
        if self.images.device.type == "cpu":
            images = empty(self.images.shape, torch.float32).copy_(self.images)
        else:
            images = self.images.to(torch.float32, copy=True)
        images = images.div_(255) if self.images.dtype == torch.uint8 else images.clamp_(0, 1)
        if self.draws is not None:
            images = Affine()(images, self.draws)
        if self.erased is not None:
            images = erase(images, self.erased, self.spec)
        return normalise_(images, self.spec).contiguous(memory_format=memory_format), self.labels, self.index

    def _mapped(self, move: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: move(tensor) for name, tensor in tensors.items()})


class Split(Dataset):
    """The images of one split as a network takes them, and their labels, a batch at a time.

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

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        return self.batch(positions)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation's draws."""
        self._epoch.fill_(epoch)

    def images(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Float32 images (k, C, H, W) and int64 labels (k,)."""
        images, labels, _ = self.batch(positions).finish()
        return images, labels

    def batch(self, positions: Sequence[int]) -> Batch:
        """The images at some positions, to be finished."""
        index = torch.as_tensor(positions, dtype=torch.int64)
        chosen = self._indices[index]
        if self._transform is None:
            images = self._source.load(chosen.tolist(), self._spec)
        else:
            pairs = zip(positions, chosen.tolist(), strict=True)
            images = stack([draw(self._transform, self._drawn("augmentation", p), self._source, i) for p, i in pairs])
        draws = self._epoch_draws()[index] if self._augmentation.policy == "affine" else None
        erased = None
        if self._augmentation.erasing:
            rectangle = partial(self._augmentation.erased, self._spec)
            erased = torch.stack([draw(rectangle, self._drawn("erasing", position)) for position in positions])
        return Batch(images, self._source.labels[chosen], index, self._spec, draws, erased)

    def _drawn(self, what: str, position: int) -> int:
        return derived_seed(self._seed, what, int(self._epoch), int(position))

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
    """A loader of a `Split` whose faults in worker processes are told in one line.

    It gives (images, labels) as the network takes them, or with `finishes=False` each `Batch` as it comes, for whoever
    finishes it on another device. Every batch has one size or one less.
    """

    def __init__(self, split: Split, batch_sampler: Iterable[list[int]], *, finishes: bool = True, **loading: Any):
        # The loader draws a seed for its workers, of which nothing depends here: not from the global generator.
        generator = torch.Generator()
        super().__init__(split, batch_sampler=batch_sampler, collate_fn=_as_it_is, generator=generator, **loading)
        self._finishes, self._loading = finishes, loading

    def unfinished(self, batch_sampler: Iterable[list[int]] | None = None) -> ImageLoader:
        """The same batches, or others of the same split, each a `Batch`."""
        return ImageLoader(self.dataset, batch_sampler or self.batch_sampler, finishes=False, **self._loading)

    def __iter__(self) -> Iterator[Any]:
        """Batches.

        Raises:
            UserError: What a worker raised, without the worker's traceback; a worker that was killed.
        """
        try:
            for batch in super().__iter__():
                yield batch.finish()[:2] if self._finishes else batch
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


def _as_it_is(batch: Batch) -> Batch:
    return batch


def derived_generator(*parts: object) -> torch.Generator:
    """A generator of the parts' `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def derived_seed(*parts: object) -> int:
    """A hash of the parts, so that neighbouring seeds, epochs and positions are independent; below 2**63."""
    name = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
