"""What tuning reads: the splits of a data module with positions added, and outputs of frozen stages computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tuning.distributed import world_size
from tuning.network import TunableNetwork
from tuning.passes import Images, in_memory, shared_outputs
from tuning.settings import TuningSettings
from tuning.sharding import runner, runs_in_shards
from tuning.throughput import ChannelsLast
from zoo.chain.batches import Batches, Rows, run_in_batches
from zoo.errors import UserError

log = logging.getLogger(__name__)


MAX_KEPT_BYTES = 1 << 28
"""Of the features of a split that are kept until the next ones, and of the weights that they depend on."""


class TuningData(Protocol):
    """What tuning needs of a data module; ``datamodules.ImageDataModule`` has it.

    Attributes:
        name: For messages.
        class_names: By label.
        batch_size: Images per optimiser step, over all processes; passes without gradient take as many at once.
        input: What the images are made for.
        augmentation: What varies the training images from epoch to epoch; None where nothing does.
        trainer: Set before a loader is asked for.
    """

    name: str
    class_names: Sequence[str]
    batch_size: int
    input: Any
    augmentation: Any
    trainer: Any

    def num_images(self, split: str) -> int:
        """Number of images of ``train``, ``val`` or ``test``."""

    def labels(self, split: str, limit: int | None = None) -> Tensor:
        """int64 (n,), in an order that never changes; the first ones stand for the split."""

    def images(self, split: str, spec: Any, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """The images (n, C, H, W) without augmentation, in the order of the labels, and these."""

    def image_batches(
        self, split: str, spec: Any, limit: int | None = None, *, batch_size: int, start: int = 0, step: int = 1
    ) -> Iterator[Tensor]:
        """The same images, (b, C, H, W) at a time: of all batches every ``step``-th from ``start`` on."""

    def train_dataloader(self) -> DataLoader:
        """Batches of (images, labels) of a map-style dataset by a batch sampler; likewise the two others."""

    def val_dataloader(self) -> DataLoader: ...

    def test_dataloader(self) -> DataLoader: ...


def check_data(data: TuningData, network: TunableNetwork, *, test: bool) -> None:
    """Refuses data that the network cannot be tuned on.

    Raises:
        UserError: A split without images, or other classes than the network's head has, in number or name.
    """
    for split in ("train", "val", *(["test"] if test else [])):
        if not data.num_images(split):
            raise UserError(
                f"{data.name} has no {_SPLITS[split]} images, and tuning needs some: give it more images, or another "
                "share of them to that split (dataset.*)"
            )
    check_classes(network.class_names or network.head.out_features, data)


def check_classes(classes: Sequence[str] | int, data: TuningData) -> None:
    """Refuses a head for other classes than those of the data: its outputs would be read as other labels.

    Args:
        classes: Names of the head's outputs in order, or only their number.
        data: What the head is to be tuned or measured on.
    """
    names, wanted = tuple(data.class_names), len(classes) if isinstance(classes, Sequence) else classes
    if wanted != len(names):
        raise UserError(
            f"the network's head has {wanted} outputs, {data.name} has {len(names)} classes: give data of these "
            f"{wanted} classes (dataset=...), or a network or blueprint with a head of {len(names)}"
        )
    if isinstance(classes, Sequence):
        differing = [(k, *both) for k, both in enumerate(zip(classes, names, strict=True)) if both[0] != both[1]]
        if differing:
            label, ours, theirs = differing[0]
            same = "in another order" if set(classes) == set(names) else "with other names"
            raise UserError(
                f"the network's classes are those of {data.name} {same}: output {label} is {ours!r}, label {label} of "
                f"the data is {theirs!r} ({len(differing)} differ); give data with the network's classes "
                "(dataset=...), or a blueprint whose head.classes are the data's"
            )


_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class TuningInputs:
    """The data as the trained part of a network sees it.

    Attributes:
        body: Maps the inputs of the loaders to pooled features: all stages, or those after the cached prefix.
        loaders: Train and validation loaders of (inputs, labels, index).
        inputs: By split (``train``, ``val``), without augmentation and in the order of the labels: a tensor (n, ...)
            where it fits in memory, or batches that are read anew each time. Of ``train`` those for closed forms.
        labels: By split, (n,).
        num_train: All training images, of which closed forms take ``len(labels["train"])``.
        batch_size: For passes without gradient.
        free_bytes: What ``tuning.max_cache_bytes`` leaves beside the inputs that are kept.

    The features of a split that were computed last are kept with what they depend on: after the last epoch, of a head
    solved anew and of the choice between heads they are the same.
    """

    body: nn.Module
    loaders: IndexedData
    inputs: Mapping[str, Tensor | Images]
    labels: Mapping[str, Tensor]
    num_train: int
    batch_size: int
    free_bytes: int = 0
    _last: dict[str, tuple[dict[str, Tensor], Tensor]] = field(default_factory=dict, repr=False)

    @property
    def complete(self) -> bool:
        """Whether closed forms take all training images."""
        return len(self.labels["train"]) == self.num_train

    @property
    def smallest_share(self) -> int:
        """Images that a process gets of the smallest batch, batches being as equal as can be."""
        num_batches = -(-self.num_train // self.batch_size)
        return self.num_train // num_batches // world_size()

    def batches(self, split: str, limit: int | None = None, *, start: int = 0, step: int = 1) -> Iterator[Tensor]:
        """The inputs of a split, ``batch_size`` at a time: of the batches of all, or of the first ``limit`` of them,
        every ``step``-th from ``start`` on."""
        rows, count = self.inputs[split], self._count(split, limit)
        own = rows.split(self.batch_size)[start::step] if isinstance(rows, Tensor) else rows.batches(start, step)
        for first, batch in zip(range(start * self.batch_size, count, step * self.batch_size), own, strict=False):
            yield batch[: count - first]

    def features(self, split: str, device: torch.device, limit: int | None = None) -> Tensor:
        """Pooled features (n, d) of a split, in eval mode, on the CPU, to be read; the processes share the work."""
        if limit is not None or world_size() > 1 or runs_in_shards():  # processes might not agree on what is the same
            return in_memory(self._outputs(split, device, limit))
        state = self._changing_state(device)
        before, features = self._last.get(split, ({}, None))
        if features is None or not _equal(before, state):
            features = in_memory(self._outputs(split, device))
            num_bytes = features.nbytes + sum(tensor.nbytes for tensor in state.values())
            self._last.clear()
            if num_bytes <= MAX_KEPT_BYTES:
                self._last[split] = {name: tensor.detach().clone() for name, tensor in state.items()}, features
        return features

    def _changing_state(self, device: torch.device) -> dict[str, Tensor]:
        """What training may change of what the features depend on, by name, where it will run; not copied."""
        self.body.to(device)
        trained = ((name, tensor) for name, tensor in self.body.named_parameters() if tensor.requires_grad)
        return dict((*trained, *self.body.named_buffers()))

    def feature_rows(self, split: str, device: torch.device, dim: int) -> Rows:
        """The same features, of ``dim`` float32 columns: in memory while they fit, else computed anew in each pass."""
        count = len(self.labels[split])
        num_bytes = 4 * count * dim
        if num_bytes <= self.free_bytes:
            return self.features(split, device)
        log.info(
            "the features of %s images (%.1f GiB) are computed anew in each pass of a closed form: "
            "tuning.max_cache_bytes leaves %.1f GiB",
            *(f"{count:,}", num_bytes / 2**30, self.free_bytes / 2**30),
        )
        return self._outputs(split, device)

    def _outputs(self, split: str, device: torch.device, limit: int | None = None) -> Batches:
        count = self._count(split, limit)
        return shared_outputs(
            self.body, partial(self.batches, split, limit), count, batch_size=self.batch_size, device=device
        )

    def _count(self, split: str, limit: int | None) -> int:
        return len(self.labels[split][:limit])


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def prepare_inputs(
    network: TunableNetwork, data: TuningData, tuning: TuningSettings, device: torch.device, *, reserved_bytes: int = 0
) -> TuningInputs:
    """Keeps in memory what ``tuning.max_cache_bytes`` allows: outputs of the frozen leading stages, or else images.

    What is kept changes the time that tuning takes, and nothing else: every closed form takes the same images.

    Args:
        network: Its frozen leading stages are those of ``tuning.mode``.
        data: Gives images for it.
        tuning: What may be kept.
        device: Where to compute.
        reserved_bytes: Of the outputs of a teacher. Where they do not fit it looks at every batch, which has to be
            images then, and not outputs of stages.

    Raises:
        UserError: ``tuning.cache_prefix=always`` where augmentation or mixing makes every epoch's images new, or where
            a teacher needs to see them.
    """
    num_train, batch_size = data.num_images("train"), data.batch_size
    num_solved = min(num_train, tuning.head.max_images or num_train)
    labels = {"train": data.labels("train", num_solved), "val": data.labels("val")}
    image = next(Images(data, "train", data.input, 1).batches())
    prefix, rest = network.frozen_prefix(tuning.mode)
    max_bytes = tuning.max_cache_bytes - reserved_bytes
    if max_bytes < 0 and tuning.cache_prefix == "always":
        raise UserError(
            f"tuning.cache_prefix=always leaves no images for a teacher, and its {reserved_bytes:,} bytes exceed "
            f"tuning.max_cache_bytes={tuning.max_cache_bytes}: raise it, or type tuning.cache_prefix=auto"
        )
    if not _caches(prefix, data, tuning, image, device, max_bytes):
        max_bytes = max(0, max_bytes)
        fits = image.nbytes * num_solved <= max_bytes
        train = Images(data, "train", data.input, num_solved)
        if fits:
            train = data.images("train", data.input, num_solved)[0]
        inputs = {"train": train, "val": Images(data, "val", data.input)}
        body, free = nn.Sequential(*network.stages()), max_bytes - (train.nbytes if fits else 0)
        return TuningInputs(body, IndexedData(data), inputs, labels, num_train, batch_size, free)

    stages = {split: Images(data, split, data.input).outputs(prefix, device) for split in ("train", "val")}
    cached = {split: (outputs, data.labels(split)) for split, outputs in stages.items()}
    num_bytes = sum(tensor.nbytes for tensor, _ in cached.values())
    log.info("computed the %d frozen stages once (%d bytes)", len(prefix), num_bytes)
    inputs = {"train": cached["train"][0][:num_solved], "val": cached["val"][0]}
    free = max(0, max_bytes - num_bytes)
    return TuningInputs(rest, IndexedData(data, cached), inputs, labels, num_train, batch_size, free)


def _caches(
    prefix: nn.Sequential,
    data: TuningData,
    tuning: TuningSettings,
    image: Tensor,
    device: torch.device,
    max_bytes: int,
) -> bool:
    if tuning.cache_prefix == "never" or not len(prefix):
        return False
    if data.augmentation is not None or tuning.mixup_alpha or tuning.cutmix_alpha:
        if tuning.cache_prefix == "always":
            raise UserError(
                "tuning.cache_prefix=always cannot hold images that are augmented or mixed: type "
                "tuning.cache_prefix=auto, or dataset.augmentation=null dataset.crop=center dataset.flip=false "
                "tuning.mixup_alpha=0 tuning.cutmix_alpha=0"
            )
        return False
    if tuning.cache_prefix == "always":
        return True
    output = run_in_batches(runner(prefix), image, batch_size=1, device=device)
    num_images = sum(data.num_images(split) for split in ("train", "val"))
    return output.nbytes * num_images <= max_bytes


class IndexedData(pl.LightningDataModule):
    """A data module's splits in its own order of batches, as (inputs, labels, index).

    Images of a loader that has ``unfinished`` travel to the device as they come, bytes mostly, and are finished there.

    Args:
        source: Its loaders give (images, labels) of a map-style dataset.
        outputs: Per split, what takes the place of the images: outputs of the frozen stages (n, ...) and labels (n,).
    """

    def __init__(self, source: TuningData, outputs: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self._source, self._outputs = source, outputs or {}
        self._start = (0, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """Lets the training loader begin with this epoch and, in it, with this batch (both from 0).

        Lightning tells a loader of the epoch of a resumed run after its workers have begun to load, and of the batch
        never.
        """
        self._start = (epoch, batch)

    def train_dataloader(self) -> DataLoader:
        return self._indexed("train", self._source.train_dataloader)

    def val_dataloader(self) -> DataLoader:
        return self._indexed("val", self._source.val_dataloader)

    def test_dataloader(self) -> DataLoader:
        return self._indexed("test", self._source.test_dataloader)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finishes images on the device, in the memory format of the network's kernels."""
        if not hasattr(batch, "finish"):
            return batch
        channels_last = any(isinstance(callback, ChannelsLast) for callback in self.trainer.callbacks)
        return batch.finish(torch.channels_last if channels_last else torch.contiguous_format)

    def _indexed(self, split: str, make_loader: Callable[[], DataLoader]) -> DataLoader:
        self._source.trainer = self.trainer
        loader = make_loader()
        order: Any = loader.batch_sampler
        if split == "train" and any(self._start):
            order = _Later(order, *self._start)
        cached = split in self._outputs
        if not cached and hasattr(loader, "unfinished"):
            return loader.unfinished(order)
        dataset = TensorDataset(*self._outputs[split]) if cached else loader.dataset
        return DataLoader(
            _Indexed(dataset),
            batch_sampler=order,
            generator=torch.Generator(),  # draws a seed for the workers, of which nothing depends: not the global one
            num_workers=0 if cached else loader.num_workers,
            pin_memory=loader.pin_memory,
            persistent_workers=loader.persistent_workers and not cached,
        )


class _Later:
    """Batches of an epoch from one in its middle on; of every other epoch all of them.

    Args:
        batches: In an order that its ``sampler.set_epoch`` chooses.
        epoch: To begin with.
        start: Batches of it to pass over, however often they are gone through: loaders with workers begin twice.
    """

    def __init__(self, batches: Any, epoch: int, start: int) -> None:
        self._batches, self._first_epoch, self._start = batches, epoch, start
        self.sampler = self  # where Lightning looks for `set_epoch`
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self._batches), self._start if self._epoch == self._first_epoch else 0, None)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order."""
        self._epoch = epoch
        self._batches.sampler.set_epoch(epoch)


class _Indexed(Dataset):
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return (*self._dataset[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor, int]]:
        if not hasattr(self._dataset, "__getitems__"):
            return [self[index] for index in indices]
        samples = self._dataset.__getitems__(indices)
        return [(*sample, index) for sample, index in zip(samples, indices, strict=True)]
