"""Labelled images and how they are brought to what a network takes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.entries import InputSpec
from zoo.errors import UserError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class LabelledImages(ABC):
    """Images with a class each.

    Attributes:
        labels: int64 (n,).
        digest: `"sha256:<hex>"` of the images and labels.
        digest_covers: What of them, in words.
        sizes_vary: Put behind the size of one image, in words.
    """

    labels: Tensor
    digest: str
    digest_covers = "pixels and labels"
    sizes_vary = ""

    def __len__(self) -> int:
        return len(self.labels)

    def listed(self, index: int) -> tuple[str, int, int]:
        """Name, size in bytes and time of change in nanoseconds of an image's file; in memory its number alone."""
        return str(index), 0, 0

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """One image as it is kept: (C, H, W), uint8 or float32 in [0, 1]."""

    def load(self, indices: Sequence[int], spec: InputSpec, crop_fraction: float = 1.0) -> Tensor:
        """Float32 images (k, C, H, W) in [0, 1] of the channels and size of `spec`; see `resize_and_crop`."""
        return torch.cat([resize_and_crop(self.image(index)[None], spec, crop_fraction) for index in indices])


class ImagesInMemory(LabelledImages):
    """Images of one size.

    Args:
        images: (n, C, H, W), uint8 or float32 in [0, 1].
        labels: int64 (n,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        sha256 = hashlib.sha256(repr(tuple(images.shape)).encode())
        sha256.update(images.contiguous().numpy().data)
        sha256.update(labels.contiguous().numpy().data)
        self.digest = f"sha256:{sha256.hexdigest()}"

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def load(self, indices: Sequence[int], spec: InputSpec, crop_fraction: float = 1.0) -> Tensor:
        return resize_and_crop(self.images[torch.as_tensor(indices)], spec, crop_fraction)


def resize_and_crop(images: Tensor, spec: InputSpec, crop_fraction: float = 1.0) -> Tensor:
    """Brings images (n, C, H, W), uint8 or in [0, 1], to float32 in [0, 1] of the channels and size of `spec`.

    Grey becomes colour by repetition, colour becomes grey by luma; the image is resized so that it covers the size
    asked for, and its centre is cut out.

    Args:
        crop_fraction: Share of the covering side that is cut out; 1 loses nothing but what differs in shape, 0.875
            is what ImageNet networks were mostly evaluated with.
    """
    images = convert_channels(images, spec.channels)  # bytes are resized as bytes, several times as fast
    height, width = images.shape[-2:]
    scale = max(spec.height / height, spec.width / width) / crop_fraction
    covering = (max(spec.height, round(height * scale)), max(spec.width, round(width * scale)))
    if covering != (height, width):
        options = {} if spec.interpolation == "nearest" else {"align_corners": False, "antialias": True}
        images = F.interpolate(images, covering, mode=spec.interpolation, **options)
    top, left = (covering[0] - spec.height) // 2, (covering[1] - spec.width) // 2
    return as_float(images[:, :, top : top + spec.height, left : left + spec.width]).clamp(0, 1)


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """`(x - mean) / std` per channel."""
    mean, std = (torch.tensor(values, dtype=images.dtype).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (images - mean) / std


def as_float(images: Tensor) -> Tensor:
    """Float32 in [0, 1] of uint8; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def convert_channels(images: Tensor, channels: int) -> Tensor:
    """Images (..., C, H, W) with as many channels as asked for; uint8 stays uint8.

    Raises:
        UserError: Neither grey nor colour.
    """
    given = images.shape[-3]
    if given == channels:
        return images
    if given == 1:
        return images.expand(*images.shape[:-3], channels, -1, -1)
    if given == 3 and channels == 1:
        luma = (images * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=-3, keepdim=True)
        return luma.round().to(images.dtype) if images.dtype == torch.uint8 else luma
    raise UserError(
        f"images of {given} channels do not fit a network that takes {channels}: only grey and colour are converted"
    )
