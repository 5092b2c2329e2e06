"""Labelled images and how they are brought to what a network takes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
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

    def keys(self) -> Tensor:
        """A number from 0 to 2^63 - 1 for each image, int64 (n,): equal for equal images; of files by `listed`."""
        return _keys("\0".join(map(str, self.listed(index))).encode() for index in range(len(self)))

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """One image as it is kept: (C, H, W), uint8 or float32 in [0, 1]."""

    def window(self, index: int, choose: ChooseBox) -> Tensor:
        """A part of one image, as it is kept.

        Args:
            choose: From height and width of the image to the `Box` wanted; called once.
        """
        image = self.image(index)
        top, left, height, width, _ = choose(*image.shape[-2:])
        return image[:, top : top + height, left : left + width]

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        """Images (k, C, H, W) of the channels and size of `spec`, uint8 where all are kept so; see `fit`."""
        return stack([fit(self.image(index)[None], spec)[0] for index in indices])


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

    def keys(self) -> Tensor:
        return _keys(image.data for image in self.images.contiguous().numpy())

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        return fit(self.images[torch.as_tensor(indices)], spec)


class Box(NamedTuple):
    """A part of an image, in pixels, and the smallest side that is wanted of it: no more need be decoded."""

    top: int
    left: int
    height: int
    width: int
    least: int


ChooseBox = Callable[[int, int], Box]


def _keys(contents: Iterable[bytes | memoryview]) -> Tensor:
    digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return torch.from_numpy((np.frombuffer(digests, "<u8") >> 1).astype(np.int64))


def resize_and_crop(images: Tensor, spec: InputSpec) -> Tensor:
    """As `fit`, in float32 in [0, 1]."""
    return as_float(fit(images, spec)).clamp(0, 1)


def fit(images: Tensor, spec: InputSpec) -> Tensor:
    """Brings images (n, C, H, W), uint8 or in [0, 1], to the channels and size of `spec`; bytes stay bytes.

    Grey becomes colour by repetition, colour becomes grey by luma; the image is resized and its centre is cut out as
    `spec.crop_pct` and `spec.crop_mode` say, pixel for pixel where timm and torchvision cut.
    """
    images = convert_channels(images, spec.channels)  # bytes are resized as bytes, several times as fast
    return _centre(resize(images, _resized(tuple(images.shape[-2:]), spec), spec.interpolation), spec)


def resize(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Images (n, C, H, W) of another height and width, with antialiasing; uint8 stays uint8."""
    if size == tuple(images.shape[-2:]):
        return images
    options = {} if interpolation == "nearest" else {"align_corners": False, "antialias": True}
    return F.interpolate(images, size, mode=interpolation, **options)


def stack(images: Sequence[Tensor]) -> Tensor:
    """Images (C, H, W) in one tensor (k, C, H, W); of bytes and floats in one batch bytes become floats."""
    if len({image.dtype for image in images}) > 1:
        images = [as_float(image) for image in images]
    stacked = empty((len(images), *images[0].shape), images[0].dtype)
    for index, image in enumerate(images):
        stacked[index] = image
    return stacked


def _resized(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Height and width that an image is resized to before its centre is cut out."""
    height, width = size
    # What torchvision publishes are sizes, of which `crop_pct` is a quotient: 224 / (224 / 232) shall stay 232.
    goal = [int(side / spec.crop_pct + 1e-6) for side in (spec.height, spec.width)]
    if spec.crop_mode == "squash":
        return goal[0], goal[1]
    if spec.crop_mode == "center" and goal[0] == goal[1]:
        short, long = min(size), int(goal[0] * max(size) / min(size))
        return (goal[0], long) if height == short else (long, goal[0])
    nearest = max if spec.crop_mode == "border" else min
    ratio = nearest(height / goal[0], width / goal[1])
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _centre(images: Tensor, spec: InputSpec) -> Tensor:
    """The middle of images (n, C, H, W) at the size of `spec`, filled up where they are smaller."""
    height, width = images.shape[-2:]
    missing = [max(0, wanted - given) for wanted, given in ((spec.width, width), (spec.height, height))]
    if any(missing):
        padding = [part for count in missing for part in (count // 2, (count + 1) // 2)]
        white = 1 if images.is_floating_point() else 255
        means = spec.mean if spec.crop_mode == "border" else (0.0,) * spec.channels
        fill = [round(255 * mean) / 255 * white for mean in means]
        planes = zip(images.unbind(1), fill, strict=True)
        images = torch.stack([F.pad(plane, padding, value=value) for plane, value in planes], dim=1)
        height, width = images.shape[-2:]
    top, left = round((height - spec.height) / 2), round((width - spec.width) / 2)
    return images[:, :, top : top + spec.height, left : left + spec.width]


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for images, uint8 or float32, by NumPy, which asks for huge pages: torch's own of that size costs a page
    fault every 4 KiB, together several times as long as a conversion takes."""
    return torch.from_numpy(np.empty(shape, np.uint8 if dtype == torch.uint8 else np.float32))


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """`(x - mean) / std` per channel."""
    return normalise_(images.clone(), spec)


def normalise_(images: Tensor, spec: InputSpec) -> Tensor:
    """`normalise` in place, on the device of the images and without waiting for it."""
    mean, std = statistics(spec, images.device)
    return images.sub_(mean).div_(std)


@lru_cache(maxsize=16)
def statistics(spec: InputSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, float32 (1, C, 1, 1), moved to a device once: a copy in every step would wait for it."""
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return mean, std


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
