"""Features of made-up residual networks, for benchmarks that need a zoo of any size and no weights."""

from __future__ import annotations

import torch
from torch import Tensor


def residual_features(lengths: list[int], num_images: int, seed: int) -> list[list[Tensor]]:
    """Per network the features of its stem and of its body nodes: random residual steps on shared random inputs.

    Returns:
        ``lengths[i] + 1`` tensors ``(num_images, d)`` float32 per network; d is doubled halfway, from 32, 64 or 96.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, 24, generator=generator) @ torch.randn(24, 48, generator=generator)
    networks = []
    for index, length in enumerate(lengths):
        width = 32 * (1 + index % 3)
        x = (images @ torch.randn(48, width, generator=generator) / 48**0.5).relu()
        features = [x]
        for node in range(length):
            if node == length // 2:
                x = x @ torch.randn(width, 2 * width, generator=generator) / width**0.5
                width *= 2
            step = (x @ torch.randn(width, width, generator=generator) / width**0.5).relu()
            x = x + step
            features.append(x)
        networks.append(features)
    return networks
