"""The probe of a file that travels: what its sender's network answers to fixed noise, for the receiver to compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.entries import InputSpec

NUM_PROBES = 4
_LEAST = 1e-30


@torch.no_grad()
def probe_logits(network: Callable[[Tensor], Tensor], spec: InputSpec) -> Tensor:
    """The logits (4, C) on fixed noise of a network that takes images of ``spec``."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_PROBES, spec.channels, spec.height, spec.width, generator=generator)
    return network(images).float()


def differences(sent: Tensor, found: Tensor) -> tuple[float, float]:
    """Of logits (n, C): their largest difference as a share of the largest, and how many images both name alike."""
    agreement = (sent.argmax(1) == found.argmax(1)).double().mean().item()
    largest = torch.maximum(sent.abs(), found.abs()).max().clamp(min=_LEAST)
    return ((sent - found).abs().max() / largest).item(), agreement
