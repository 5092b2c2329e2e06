"""Features of made-up residual networks and made-up photographs, for benchmarks of any size without weights or data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
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


def photographs(root: Path, count: int, height: int, width: int, num_classes: int = 2) -> None:
    """Writes JPEGs as large as real ones of that size, `root/CLASS/NUMBER.jpg`: smooth colours with some noise.

    A few are made and written again and again: what readers do does not depend on it.
    """
    generator = np.random.default_rng(height * width)
    made: list[bytes] = []
    for number in range(count):
        if number < 32:
            small = generator.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            noisy = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(noisy).save(file, "JPEG", quality=90)
            made.append(file.getvalue())
        folder = root / f"class{number % num_classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07}.jpg").write_bytes(made[number % len(made)])
