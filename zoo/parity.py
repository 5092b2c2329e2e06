"""How near the answers of two builds of one network are to each other."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-30


def parity(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Of logits (n, C): their largest difference as a share of the largest, and the share of rows named alike.

    The difference is 0 if they are equal and NaN if any is NaN.
    """
    largest = torch.maximum(expected.abs(), found.abs()).max().clamp_min(_LEAST)
    agreement = (expected.argmax(1) == found.argmax(1)).double().mean().item()
    return ((expected - found).abs().max() / largest).item(), agreement
