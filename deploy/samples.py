"""Real images to check a network on: the user's, those of its run, or two photographs that every installation has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.images import normalise, resize_and_crop
from deploy.images import as_pixels
from deploy.model import Model
from zoo.errors import UserError

log = logging.getLogger(__name__)

NUM_IMAGES = 16


def real_images(model: Model, paths: Sequence[Path] = ()) -> tuple[Tensor, str]:
    """Images at the size and in the channels that a model takes, uint8 (n, C, H, W), and where they are from.

    Args:
        model: Whose input counts.
        paths: Of image files; without any they are of the model's run, or else pieces of photographs.
    """
    if paths:
        return torch.cat(
            [_sized(as_pixels(path, model.interface), model) for path in paths[:NUM_IMAGES]]
        ), "the files given"
    if model.origin.run_dir is not None:
        try:
            return _of_run(model)
        except UserError as error:
            log.info("the images of its run cannot be had (%s): photographs are taken", error)
    return _photographs(model), "photographs of scikit-learn"


def as_input(images: Tensor, model: Model) -> Tensor:
    """What a network takes of them, float32, on its device."""
    return normalise(images.float() / 255, model.input).to(model.device)


def _sized(pixels: Tensor, model: Model) -> Tensor:
    return (resize_and_crop(pixels, model.input) * 255).round().to(torch.uint8)


def _of_run(model: Model) -> tuple[Tensor, str]:
    from deploy.data import data_of

    data = data_of(model, [])
    images, _ = data.images("test", model.input, NUM_IMAGES)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (model.input.mean, model.input.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8), f"test images of {data.name}"


def _photographs(model: Model) -> Tensor:
    from sklearn.datasets import load_sample_images

    pieces = []
    for photograph in load_sample_images().images:
        pixels = torch.from_numpy(photograph).permute(2, 0, 1)[None]
        for size in (427, 300, 200, 120):
            pieces += [pixels[:, :, :size, :size], pixels[:, :, -size:, -size:]]
    channels = model.input.channels
    if channels not in (1, 3):
        pieces = [piece[:, :1].expand(-1, channels, -1, -1) for piece in pieces]
    return torch.cat([_sized(piece, model) for piece in pieces[:NUM_IMAGES]])
