"""The base of all image data modules: splits fixed by a seed, images in the form that a network takes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from datamodules.augmentation import MAX_MAGNITUDE, Augmentation
from datamodules.batches import BatchOrder, ImageLoader, Split
from datamodules.checks import require_count, require_flag, require_share, require_text
from datamodules.images import LabelledImages
from datamodules.manifest import ListedImage, Manifest, printable
from zoo.blueprint import SeenImages
from zoo.entries import InputSpec
from zoo.limits import above, at_least

log = logging.getLogger(__name__)

_CHUNK = 64


class ImageDataModule:
    """Labelled images in three splits.

    Args:
        name: Of the data, for reports.
        source: All images.
        splits: Indices into the source, int64 (n,), of `train`, `val` and `test`, each in a stratified order: its
            first images stand for the split.
        class_names: By label; see `manifest.printable`.
        seed: Of the order of batches and of the augmentation.
        split_rule: Where the splits come from, in words; None says that they were cut by the seed.
        batch_size: Images per optimiser step, over all processes.
        augmentation: What distorts the training images, see `Augmentation.policy`; None does not.
        crop: Of the training images, see `Augmentation`.
        flip: Whether training images are mirrored by chance.
        min_crop_area: Smallest share of the area that `crop=random_resized` leaves.
        crop_fraction: Share of the side that is cut out of the centre in evaluation, in place of what the network's
            `crop_pct` and `crop_mode` say; None follows these.
        num_ops: Of `augmentation=randaugment`, see `Augmentation`.
        magnitude: Of `augmentation=randaugment`, see `Augmentation`.
        brightness: Strength of the colour jitter, see `Augmentation`; so are `contrast`, `saturation` and `hue`.
        erasing: Chance of Random Erasing, see `Augmentation`.
        num_workers: Processes that load images; 0 loads in the process that trains.
        persistent_workers: Whether these processes outlive an epoch.
        pin_memory: Whether batches are put where a GPU reads them faster; without a GPU they are not.

    Attributes:
        input: What the loaders' images are made for; set by `use_input`.
        augmentation: What varies the training images from epoch to epoch; None where nothing does.
        options: The arguments from `batch_size` on, for another data module over the same images.
    """

    def __init__(
        self,
        *,
        name: str,
        source: LabelledImages,
        splits: Mapping[str, Tensor],
        class_names: Sequence[str],
        seed: int = 0,
        split_rule: str | None = None,
        batch_size: Annotated[int, at_least(1)] = 32,
        augmentation: str | None = None,
        crop: str = "center",
        flip: bool = False,
        min_crop_area: Annotated[float, above(0, 1)] = 0.25,
        crop_fraction: Annotated[float | None, above(0, 1)] = None,
        num_ops: Annotated[int, at_least(1, 16)] = 2,
        magnitude: Annotated[int, at_least(0, MAX_MAGNITUDE)] = 9,
        brightness: Annotated[float, at_least(0, 1)] = 0.0,
        contrast: Annotated[float, at_least(0, 1)] = 0.0,
        saturation: Annotated[float, at_least(0, 1)] = 0.0,
        hue: Annotated[float, at_least(0, 0.5)] = 0.0,
        erasing: Annotated[float, at_least(0, 1)] = 0.0,
        num_workers: Annotated[int, at_least(0, 1024)] = 0,
        persistent_workers: bool = True,
        pin_memory: bool = False,
    ) -> None:
        require_text("name", name)
        require_count("batch_size", batch_size, at_least=1)
        require_count("num_workers", num_workers)
        require_flag("persistent_workers", persistent_workers)
        require_flag("pin_memory", pin_memory)
        if crop_fraction is not None:
            require_share("crop_fraction", crop_fraction, whole=True)
        varied = Augmentation(
            policy=augmentation,
            crop=crop,
            flip=flip,
            min_crop_area=min_crop_area,
            num_ops=num_ops,
            magnitude=magnitude,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
            erasing=erasing,
        )
        self.name = name
        self.class_names = tuple(map(printable, class_names))
        self.seed = seed
        self.batch_size = batch_size
        self.augmentation = varied if varied.varies else None
        self.options: dict[str, Any] = {
            "batch_size": batch_size,
            "augmentation": augmentation,
            "crop": crop,
            "flip": flip,
            "min_crop_area": min_crop_area,
            "crop_fraction": crop_fraction,
            "num_ops": num_ops,
            "magnitude": magnitude,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
            "erasing": erasing,
            "num_workers": num_workers,
            "persistent_workers": persistent_workers,
            "pin_memory": pin_memory,
        }
        self.input: InputSpec | None = None
        self._crop_fraction = crop_fraction
        self._source = source
        self._splits = {"train": splits["train"], "val": splits["val"], "test": splits["test"]}
        self._split_rule = split_rule or f"cut by seed {seed}, stratified"
        self._loading = {
            "num_workers": num_workers,
            "pin_memory": pin_memory and torch.cuda.is_available(),
            "persistent_workers": persistent_workers and num_workers > 0,
        }

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
        if self._crop_fraction not in (None, 1):
            sha256.update(f"\0crop_fraction\0{self._crop_fraction}".encode())
        return f"sha256:{sha256.hexdigest()}"

    @property
    def record(self) -> dict[str, Any]:
        """What was read, how it was split, and what networks got of it, for result files."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "splits": {**{split: len(indices) for split, indices in self._splits.items()}, "how": self._split_rule},
            "digest": self.digest,
            "digest_covers": f"{self._source.digest_covers}, classes, splits",
            "conversion": self._conversion(self.input) if self.input is not None else None,
        }

    @property
    def manifest(self) -> Manifest:
        """The images of all splits by name, for a run that goes on later; see `manifest.difference`."""
        images = {}
        for split, indices in self._splits.items():
            for index in indices.tolist():
                name, size_bytes, modified_ns = self._source.listed(index)
                label = self.class_names[int(self._source.labels[index])]
                images[name] = ListedImage(label, split, size_bytes, modified_ns)
        return Manifest(self.digest, dict(sorted(images.items())))

    @property
    def evaluation_input(self) -> InputSpec:
        """What the images of validation and test are made for, the crop included; `use_input` comes first."""
        assert self.input is not None, "call use_input before asking for it"
        return self._cropped(self.input)

    @property
    def seen(self) -> SeenImages:
        """What a network that is tuned on this data keeps of it."""
        source = self._source
        return SeenImages.of(self.name, self.class_names, source.labels, source.keys(), self._indices("train"))

    def keys(self, split: str) -> Tensor:
        """A number for each image of a split, int64 (n,): equal for equal images; see `LabelledImages.keys`."""
        return self._source.keys()[self._indices(split)]

    def num_images(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._indices(split))

    def use_input(self, spec: InputSpec) -> None:
        """Makes the loaders give images for a network that takes `spec`, and says in the log what that means.

        Raises:
            UserError: An augmentation that makes no sense for such images.
        """
        if self.augmentation is not None:
            self.augmentation.require_fits(spec)
        if spec != self.input:
            log.info("%s", self._conversion(spec))
        self.input = spec

    def images(
        self, split: str, spec: InputSpec, limit: int | None = None, *, augmented_epoch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images of a split without augmentation, in an order that never changes; no others are read.

        Args:
            split: `train`, `val` or `test`. Networks are compared on images of `train`: those of `test` are for the
                last figure only.
            spec: What the network takes.
            limit: Gives the first images only; they are stratified.
            augmented_epoch: Gives the images as the augmentation distorts them in that epoch.

        Returns:
            Float32 images (n, C, H, W) and int64 labels (n,).
        """
        labels = self.labels(split, limit)
        images = torch.empty(len(labels), spec.channels, spec.height, spec.width)
        start = 0
        for batch in self.image_batches(split, spec, limit, batch_size=_CHUNK, augmented_epoch=augmented_epoch):
            images[start : start + len(batch)] = batch
            start += len(batch)
        return images, labels

    def labels(self, split: str, limit: int | None = None) -> Tensor:
        """The labels that `images` gives, int64 (n,), without reading images."""
        return self._source.labels[self._indices(split)[:limit]]

    def image_batches(
        self,
        split: str,
        spec: InputSpec,
        limit: int | None = None,
        *,
        batch_size: int,
        start: int = 0,
        step: int = 1,
        augmented_epoch: int | None = None,
    ) -> Iterator[Tensor]:
        """The images that `images` gives, (b, C, H, W) at a time, where all of them need not fit in memory.

        Args:
            split: See `images`, like `spec`, `limit` and `augmented_epoch`.
            batch_size: Images at a time; the last ones are fewer.
            start: Of the batches, the first that is given; those before are not read.
            step: Gives only every `step`-th from there on, as one of several processes takes its share.
        """
        augmented = augmented_epoch is not None
        chosen = self._split(split, spec, augmented=augmented)
        if augmented:
            chosen.set_epoch(augmented_epoch)
        positions = range(len(chosen))[:limit]
        helpers = self._loading["num_workers"] if len(positions) > 8 * _CHUNK else 0
        batches = [list(positions[first : first + batch_size]) for first in range(0, len(positions), batch_size)]
        loader = ImageLoader(chosen, batches[start::step], num_workers=helpers)
        for images, _ in loader:
            yield images

    def train_dataloader(self) -> ImageLoader:
        """Batches of (images, labels), shuffled and augmented anew in each epoch."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> ImageLoader:
        """Batches of (images, labels) in a fixed order."""
        return self._loader("val", training=False)

    def test_dataloader(self) -> ImageLoader:
        """Batches of (images, labels) in a fixed order."""
        return self._loader("test", training=False)

    def _indices(self, split: str) -> Tensor:
        return self._splits[split]

    def _split(self, split: str, spec: InputSpec, *, augmented: bool) -> Split:
        augmentation = self.augmentation or Augmentation("affine") if augmented else Augmentation()
        return Split(self._source, self._indices(split), self._cropped(spec), augmentation, self.seed)

    def _cropped(self, spec: InputSpec) -> InputSpec:
        """What a network takes, cut as `crop_fraction` says where it says anything."""
        if self._crop_fraction is None:
            return spec
        return replace(spec, crop_pct=float(self._crop_fraction), crop_mode="center")

    def _loader(self, split: str, *, training: bool) -> ImageLoader:
        assert self.input is not None, "call use_input before asking for a loader"
        chosen = self._split(split, self.input, augmented=training and self.augmentation is not None)
        order = BatchOrder(chosen, self.batch_size, shuffle=training, seed=self.seed)
        return ImageLoader(chosen, order, **self._loading)

    def _conversion(self, spec: InputSpec) -> str:
        first = self._source.image(next(int(indices[0]) for indices in self._splits.values() if len(indices)))
        kept = f"{'x'.join(map(str, first.shape))} {_COLOURS.get(len(first), 'channels')}"
        wanted = f"{spec.channels}x{spec.height}x{spec.width} {_COLOURS.get(spec.channels, 'channels')}"
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (spec.mean, spec.std))
        return (
            f"images of {self.name}: {kept}{self._source.sizes_vary} -> {wanted}, {spec.interpolation}, "
            f"{_crop(self._cropped(spec))}mean {mean}, std {std}; augmentation: {self.augmentation or 'none'}"
        )


def _crop(spec: InputSpec) -> str:
    modes = {"center": "", "squash": "squashed, ", "border": "with borders, "}
    return modes[spec.crop_mode] + (f"{spec.crop_pct:.3g} of the side cut out, " if spec.crop_pct != 1 else "")


_COLOURS = {1: "grey", 3: "colour"}
