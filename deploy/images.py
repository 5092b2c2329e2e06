"""Images of any kind as a network takes them: files, PIL images, arrays and tensors, the way its training had them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.decoding import Decoding, decode, decode_image
from datamodules.images import normalise, resize_and_crop
from zoo.errors import UserError
from zoo.interface import Interface

Images = Any
"""A path, a PIL image, a NumPy array (H, W) or (H, W, C), a tensor (C, H, W) or (N, C, H, W), or several."""


def preprocess(images: Images, interface: Interface) -> Tensor:
    """Images as the network takes them, float32 (N, C, H, W): resized, cut out of the centre, normalised.

    Args:
        images: See ``Images``. uint8, or floating-point numbers from 0 (black) to 1 (white).
        interface: Of the network.

    Raises:
        UserError: A file that cannot be read, another shape, numbers beyond 0 and 1.
    """
    items = [images] if _is_single(images) else list(images)
    if not items:
        raise UserError("no images: expected one at least")
    return torch.cat([_prepared(item, interface) for item in items])


def _is_single(images: Images) -> bool:
    return isinstance(images, (str, Path, Image.Image, np.ndarray, Tensor)) or not isinstance(images, Sequence)


def _prepared(item: Any, interface: Interface) -> Tensor:
    pixels = as_pixels(item, interface)
    return normalise(resize_and_crop(pixels, interface.input), interface.input)


def as_pixels(item: Any, interface: Interface) -> Tensor:
    """One image, or a batch of tensors, as (N, C, H, W), uint8 or float32 in [0, 1]."""
    decoding = Decoding(interface.background, interface.white_level)
    if isinstance(item, (str, Path)):
        return decode(Path(item), decoding).pixels[None]
    if isinstance(item, Image.Image):
        return decode_image(item, decoding, "the image given").pixels[None]
    if isinstance(item, np.ndarray):
        if item.ndim not in (2, 3) or (item.ndim == 3 and item.shape[2] not in (1, 3)):
            raise UserError(f"an array of shape {item.shape}: expected (height, width), or (height, width, 1 or 3)")
        item = torch.from_numpy(item.copy())  # which may be read-only
        item = item[None] if item.ndim == 2 else item.permute(2, 0, 1)
    if not isinstance(item, Tensor):
        raise UserError(
            f"an image of type {type(item).__name__}: expected a path, a PIL image, a NumPy array (height, width, "
            "channels), or a tensor (channels, height, width)"
        )
    return _checked(item, interface.input.channels)


def _checked(x: Tensor, channels: int) -> Tensor:
    given, x = list(x.shape), x[None] if x.ndim == 3 else x
    allowed = sorted({1, 3, channels})
    if x.ndim != 4 or x.shape[1] not in allowed or not all(x.shape):
        shape = f"{' or '.join(map(str, allowed))}, height, width"
        raise UserError(f"a tensor of shape {given}: expected ({shape}), or (n, {shape})")
    if x.dtype == torch.uint8:
        return x.cpu()
    if not x.is_floating_point():
        raise UserError(f"a tensor of {x.dtype}: expected uint8 from 0 to 255, or floating-point numbers from 0 to 1")
    x = x.detach().float().cpu()
    if not ((x >= 0) & (x <= 1)).all():  # NaN is not
        raise UserError(
            f"numbers from {x.min():.3g} to {x.max():.3g}: expected 0 (black) to 1 (white), before mean and std; "
            "call the model itself on images that are preprocessed already"
        )
    return x
