"""Real images to check a network on: the user's, those of a data set, or photographs that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.images import normalise, resize_and_crop
from deploy.images import as_pixels
from deploy.model import Model

NUM_IMAGES = 16


def real_images(model: Model, paths: Sequence[Path] = (), data: ImageDataModule | None = None) -> tuple[Tensor, str]:
    """Images at the size and in the channels that a model takes, uint8 (n, C, H, W), and where they are from.

    Args:
        model: Whose input counts.
        paths: Of image files.
        data: Without files, its test images; without either, pieces of photographs.
    """
    if paths:
        return torch.cat(
            [_sized(as_pixels(path, model.interface), model) for path in paths[:NUM_IMAGES]]
        ), "the files given"
    if data is not None:
        images, _ = data.images("test", model.input, NUM_IMAGES)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (model.input.mean, model.input.std))
        return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8), f"test images of {data.name}"
    return _photographs(model), "photographs of scikit-learn"


def as_input(images: Tensor, model: Model) -> Tensor:
    """What a network takes of them, float32, on its device."""
    return normalise(images.float() / 255, model.input).to(model.device)


def _sized(pixels: Tensor, model: Model) -> Tensor:
    return (resize_and_crop(pixels, model.input) * 255).round().to(torch.uint8)


def _photographs(model: Model) -> Tensor:
    from sklearn.datasets import load_sample_images

    pieces = []
    for photograph in load_sample_images().images:
        pixels = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None]
        for size in (427, 300, 200, 120):
            pieces += [pixels[:, :, :size, :size], pixels[:, :, -size:, -size:]]
    channels = model.input.channels
    if channels not in (1, 3):
        pieces = [piece[:, :1].expand(-1, channels, -1, -1) for piece in pieces]
    return torch.cat([_sized(piece, model) for piece in pieces[:NUM_IMAGES]])
