"""Mixup and CutMix, drawn from (seed, epoch, batch, rank) so that a resumed run mixes the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mix(
    images: Tensor, labels: Tensor, num_classes: int, *, mixup_alpha: float, cutmix_alpha: float, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Mixes every image of a batch with another one: blended (Mixup, 1710.09412) or pasted (CutMix, 1905.04899).

    One share is drawn per batch; where both alphas are positive, each batch draws one of the two with equal chance.

    Args:
        images: (N, C, H, W).
        labels: (N,) class indices.
        seed: Non-negative integers that fix the draw.

    Returns:
        Images of the same shape and target probabilities (N, num_classes).
    """
    generator = np.random.default_rng(seed)
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or generator.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = generator.beta(alpha, alpha)
    partner = torch.from_numpy(generator.permutation(len(images)))
    if images.is_cuda:  # pinned, so that nobody waits for the device
        partner = partner.pin_memory().to(images.device, non_blocking=True)
    if cut:
        height, width = images.shape[-2:]
        rows = _window(generator, height, share)
        columns = _window(generator, width, share)
        images = images.clone()
        images[..., rows, columns] = images[partner][..., rows, columns]
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    else:
        images = share * images + (1 - share) * images[partner]
    return images, share * targets + (1 - share) * targets[partner]


def _window(generator: np.random.Generator, size: int, share: float) -> slice:
    """A window of a uniform centre that covers sqrt(1 - share) of a side, clipped at the border."""
    half = int(size * (1 - share) ** 0.5) // 2
    centre = int(generator.integers(size))
    return slice(max(centre - half, 0), min(centre + half, size))
