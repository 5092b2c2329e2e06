"""The probe of a file that travels: what its sender's network answers to fixed noise, for the receiver to compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.entries import InputSpec

NUM_PROBES = 4


@torch.no_grad()
def probe_logits(network: Callable[[Tensor], Tensor], spec: InputSpec) -> Tensor:
    """The logits (4, C) on fixed noise of a network that takes images of ``spec``."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_PROBES, spec.channels, spec.height, spec.width, generator=generator)
    return network(images).float()
