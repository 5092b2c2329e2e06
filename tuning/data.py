"""What tuning reads: the loaders of a data module with positions added, and outputs of frozen stages computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tuning.network import TunableNetwork
from tuning.settings import TuningSettings
from zoo.chain.modes import eval_mode
from zoo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningInputs:
    """The data as the trained part of a network sees it.

    Attributes:
        body: Maps the inputs of the loaders to pooled features: all stages, or those after the cached prefix.
        loaders: Train and validation loaders of (inputs, labels, index).
        inputs: (n, ...) inputs of the training images without augmentation, for closed forms.
        labels: (n,).
        complete: Whether ``inputs`` are all the training images, or as many as the settings let into memory.
        batch_size: For passes without gradient.
    """

    body: nn.Module
    loaders: TuningData
    inputs: Tensor
    labels: Tensor
    complete: bool
    batch_size: int

    def features(self, network: TunableNetwork, device: torch.device) -> Tensor:
        """Pooled features (n, d) of the training images, in eval mode."""
        return run_in_batches(network, self.body, self.inputs, batch_size=self.batch_size, device=device)


def prepare_inputs(
    network: TunableNetwork, datamodule: pl.LightningDataModule, tuning: TuningSettings, device: torch.device
) -> TuningInputs:
    """Reads the training images and, where it pays, replaces images by the outputs of the frozen leading stages.

    Raises:
        UserError: ``tuning.cache_prefix=always`` where augmentation or mixing makes every epoch's images new.
    """
    image, _ = datamodule.images("train", datamodule.input, limit=1)
    limit = max(2, min(tuning.head.max_images, tuning.max_cache_bytes // image.nbytes))
    images, labels = datamodule.images("train", datamodule.input, limit=limit)
    complete = len(labels) == datamodule.num_images("train")
    batch_size = datamodule.batch_size
    prefix, rest = network.frozen_prefix(tuning.mode)
    if not (complete and _caches(network, prefix, datamodule, tuning, images[:1], device)):
        body = nn.Sequential(*network.stages())
        return TuningInputs(body, TuningData(datamodule), images, labels, complete, batch_size)

    def outputs(images: Tensor) -> Tensor:
        return run_in_batches(network, prefix, images, batch_size=batch_size, device=device)

    val_images, val_labels = datamodule.images("val", datamodule.input)
    inputs = outputs(images)
    cached = {"train": (inputs, labels), "val": (outputs(val_images), val_labels)}
    log.info("computed the %d frozen stages once (%d bytes)", len(prefix), inputs.nbytes)
    return TuningInputs(rest, TuningData(datamodule, cached), inputs, labels, complete, batch_size)


def _caches(
    network: TunableNetwork,
    prefix: nn.Sequential,
    datamodule: pl.LightningDataModule,
    tuning: TuningSettings,
    image: Tensor,
    device: torch.device,
) -> bool:
    if tuning.cache_prefix == "never" or not len(prefix):
        return False
    if datamodule.augmentation is not None or tuning.mixup_alpha or tuning.cutmix_alpha:
        if tuning.cache_prefix == "always":
            raise UserError(
                "tuning.cache_prefix=always cannot hold images that are augmented or mixed: type "
                "tuning.cache_prefix=auto, or dataset.augmentation=null dataset.crop=center dataset.flip=false "
                "tuning.mixup_alpha=0 tuning.cutmix_alpha=0"
            )
        return False
    if tuning.cache_prefix == "always":
        return True
    output = run_in_batches(network, prefix, image, batch_size=1, device=device)
    num_images = sum(datamodule.num_images(split) for split in ("train", "val"))
    return output.nbytes * num_images <= tuning.max_cache_bytes


class TuningData(pl.LightningDataModule):
    """A data module's splits in its own order of batches, as (inputs, labels, index).

    Args:
        source: Its loaders give (images, labels) of a map-style dataset.
        outputs: Per split, what takes the place of the images: outputs of the frozen stages (n, ...) and labels (n,).
    """

    def __init__(
        self, source: pl.LightningDataModule, outputs: Mapping[str, tuple[Tensor, Tensor]] | None = None
    ) -> None:
        super().__init__()
        self._source, self._outputs = source, outputs or {}

    def train_dataloader(self) -> DataLoader:
        return self._indexed("train", self._source.train_dataloader)

    def val_dataloader(self) -> DataLoader:
        return self._indexed("val", self._source.val_dataloader)

    def test_dataloader(self) -> DataLoader:
        return self._indexed("test", self._source.test_dataloader)

    def _indexed(self, split: str, make_loader: Callable[[], DataLoader]) -> DataLoader:
        self._source.trainer = self.trainer
        loader = make_loader()
        cached = split in self._outputs
        dataset = TensorDataset(*self._outputs[split]) if cached else loader.dataset
        return DataLoader(
            _Indexed(dataset),
            batch_sampler=loader.batch_sampler,
            generator=torch.Generator(),  # draws a seed for the workers, of which nothing depends: not the global one
            num_workers=0 if cached else loader.num_workers,
            pin_memory=loader.pin_memory,
            persistent_workers=loader.persistent_workers and not cached,
        )


@torch.no_grad()
def run_in_batches(
    network: nn.Module, part: nn.Module, inputs: Tensor, *, batch_size: int, device: torch.device
) -> Tensor:
    """Runs a part of a network in eval mode over inputs (n, ...); the outputs (n, ...) stay on the CPU."""
    network.to(device)
    with eval_mode(network):
        return torch.cat([part(batch.to(device)).cpu() for batch in inputs.split(batch_size)])


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
