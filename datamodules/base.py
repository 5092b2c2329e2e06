"""The base of all image data modules: splits fixed by a seed, images in the form that a network takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augmentation import Affine
from datamodules.batches import BatchOrder, Split
from datamodules.images import LabelledImages
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.records import neighbours

AUGMENTATIONS = {"affine": Affine()}


class ImageDataModule(pl.LightningDataModule):
    """Labelled images in three splits.

    Args:
        name: Of the data, for reports.
        source: All images.
        splits: Indices into the source, int64 (n,), of `train`, `val` and `test`, each in a stratified order: its
            first images stand for the split.
        class_names: By label.
        seed: Of the order of batches and of the augmentation.
        batch_size: Images per optimiser step, over all processes.
        augmentation: `affine` (see `augmentation.Affine`) distorts the training images; None does not.
        num_workers: Processes that load images; 0 loads in the process that trains.
        pin_memory: Whether batches are put where a GPU reads them faster.

    Attributes:
        input: What the loaders' images are made for; set by `use_input`.
    """

    def __init__(
        self,
        *,
        name: str,
        source: LabelledImages,
        splits: Mapping[str, Tensor],
        class_names: Sequence[str],
        seed: int = 0,
        batch_size: int = 32,
        augmentation: str | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"dataset.batch_size={batch_size}: expected at least 1")
        if num_workers < 0:
            raise UserError(f"dataset.num_workers={num_workers}: expected at least 0")
        if augmentation is not None and augmentation not in AUGMENTATIONS:
            known = neighbours(str(augmentation), [*AUGMENTATIONS, "null"])
            raise UserError(f"dataset.augmentation={augmentation} is unknown: {known}")
        self.name = name
        self.class_names = tuple(class_names)
        self.seed = seed
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.input: InputSpec | None = None
        self._source = source
        self._splits = {"train": splits["train"], "val": splits["val"], "test": splits["test"]}
        self._loading = {"num_workers": num_workers, "pin_memory": pin_memory, "persistent_workers": num_workers > 0}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """`"sha256:<hex>"` of images, labels, classes and splits: everything `images` depends on, beside its input."""
        sha256 = hashlib.sha256("\0".join((self._source.digest, *self.class_names)).encode())
        for split, indices in self._splits.items():
            sha256.update(f"\0{split}\0{len(indices)}\0".encode())
            sha256.update(indices.contiguous().numpy().data)
        return f"sha256:{sha256.hexdigest()}"

    def num_images(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._indices(split))

    def use_input(self, spec: InputSpec) -> None:
        """Makes the loaders give images for a network that takes `spec`."""
        self.input = spec

    def images(
        self, split: str, spec: InputSpec, limit: int | None = None, *, augmented_epoch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images of a split without augmentation, in an order that never changes.

        Args:
            split: `train`, `val`, `test`, or `probe`: the images that networks are compared on, which are those of
                `train`, for the test images are for the last figure only.
            spec: What the network takes.
            limit: Gives the first images only; they are stratified.
            augmented_epoch: Gives the images as the augmentation distorts them in that epoch.

        Returns:
            Float32 images (n, C, H, W) and int64 labels (n,).
        """
        augmented = augmented_epoch is not None
        chosen = self._split(split, spec, augmented=augmented)
        if augmented:
            chosen.set_epoch(augmented_epoch)
        return chosen.images(range(len(chosen))[:limit])

    def train_dataloader(self) -> DataLoader:
        """Batches of (images, labels), shuffled and augmented anew in each epoch."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader:
        """Batches of (images, labels) in a fixed order."""
        return self._loader("val", training=False)

    def test_dataloader(self) -> DataLoader:
        """Batches of (images, labels) in a fixed order."""
        return self._loader("test", training=False)

    def _indices(self, split: str) -> Tensor:
        return self._splits["train" if split == "probe" else split]

    def _split(self, split: str, spec: InputSpec, *, augmented: bool) -> Split:
        augmentation = AUGMENTATIONS[self.augmentation or "affine"] if augmented else None
        return Split(self._source, self._indices(split), spec, augmentation, self.seed)

    def _loader(self, split: str, *, training: bool) -> DataLoader:
        assert self.input is not None, "call use_input before asking for a loader"
        chosen = self._split(split, self.input, augmented=training and self.augmentation is not None)
        order = BatchOrder(chosen, self.batch_size, shuffle=training, seed=self.seed)
        # The loader draws a seed for its workers, of which nothing depends here: not from the global generator.
        return DataLoader(chosen, batch_sampler=order, generator=torch.Generator(), **self._loading)
