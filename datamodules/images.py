"""Labelled images, in memory or in files, and how they are brought to what a network takes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from zoo.entries import InputSpec
from zoo.errors import UserError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class LabelledImages(ABC):
    """Images with a class each.

    Attributes:
        labels: int64 (n,).
        digest: `"sha256:<hex>"` of the images and labels.
    """

    labels: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        """Float32 images (k, C, H, W) in [0, 1] of the channels and size that `spec` asks for."""


class ImagesInMemory(LabelledImages):
    """Images of one size.

    Args:
        images: Float32 (n, C, H, W) in [0, 1].
        labels: int64 (n,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        sha256 = hashlib.sha256(repr(tuple(images.shape)).encode())
        sha256.update(images.contiguous().numpy().data)
        sha256.update(labels.contiguous().numpy().data)
        self.digest = f"sha256:{sha256.hexdigest()}"

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        return fit(self.images[torch.as_tensor(indices)], spec)


class ImagesInFiles(LabelledImages):
    """Image files, read when they are asked for.

    The digest covers the files' paths below `root`, their sizes and labels, not their contents.
    """

    def __init__(self, root: Path, paths: Sequence[Path], labels: Tensor) -> None:
        self.paths, self.labels = list(paths), labels
        lines = [
            f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0{label}"
            for path, label in zip(self.paths, labels.tolist(), strict=True)
        ]
        self.digest = f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"

    def load(self, indices: Sequence[int], spec: InputSpec) -> Tensor:
        return torch.cat([fit(read_image(self.paths[int(index)]), spec) for index in indices])


def read_image(path: Path) -> Tensor:
    """Float32 (1, 3, H, W) in [0, 1], upright; a file that is no image is a `UserError` that names it."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            pixels = np.array(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); repair or remove it") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def fit(images: Tensor, spec: InputSpec) -> Tensor:
    """Brings images (n, C, H, W) to the channels and size of `spec`.

    Grey becomes colour by repetition, colour becomes grey by luma; the image is resized so that it covers the size
    asked for, and its centre is cut out. Values stay in [0, 1].
    """
    images = _convert_channels(images, spec.channels)
    height, width = images.shape[-2:]
    scale = max(spec.height / height, spec.width / width)
    covering = (max(spec.height, round(height * scale)), max(spec.width, round(width * scale)))
    if covering != (height, width):
        options = {} if spec.interpolation == "nearest" else {"align_corners": False, "antialias": True}
        images = F.interpolate(images, covering, mode=spec.interpolation, **options).clamp(0, 1)
    top, left = (covering[0] - spec.height) // 2, (covering[1] - spec.width) // 2
    return images[:, :, top : top + spec.height, left : left + spec.width]


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """`(x - mean) / std` per channel."""
    mean, std = (torch.tensor(values, dtype=images.dtype).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (images - mean) / std


def _convert_channels(images: Tensor, channels: int) -> Tensor:
    given = images.shape[1]
    if given == channels:
        return images
    if given == 1:
        return images.expand(-1, channels, -1, -1)
    if given == 3 and channels == 1:
        return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    raise UserError(
        f"images of {given} channels do not fit a network that takes {channels}: only grey and colour are converted"
    )
