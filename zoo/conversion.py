"""Images preprocessed for one network as another takes them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from zoo.entries import InputSpec


def convert(x: Tensor, given: InputSpec, wanted: InputSpec) -> Tensor:
    """Images preprocessed for one network as another takes them: without parameters, up to the limits of [0, 1]."""
    if given == wanted:
        return x
    mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (given.mean, given.std))
    x = x * std + mean
    if given.channels != wanted.channels:
        x = x.mean(1, keepdim=True).expand(-1, wanted.channels, -1, -1)
    size = (wanted.height, wanted.width)
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (wanted.mean, wanted.std))
    return (x - mean) / std
