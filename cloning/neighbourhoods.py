"""LIME neighbourhoods: images with some patches blackened, and the local linear model of a network on them.

Source: Ribeiro et al., "Why Should I Trust You?" (arXiv 1602.04938), as used by Partial Network Cloning
(arXiv 2303.10597); the article prints no equations, those here are this project's reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.ridge import damped_solve, to_float64

KERNEL_WIDTH = 0.25
LEAST_KEPT = 0.4


@dataclass(frozen=True)
class Neighbourhoods:
    """Which patches each neighbour of each image keeps.

    Attributes:
        patches: (n, K, P) of 0 and 1; the first neighbour of every image keeps all.
        grid: Rows and columns of the patches, P = rows * columns.
    """

    patches: Tensor
    grid: tuple[int, int]

    @property
    def proximity(self) -> Tensor:
        """(n, K) float64: exp(-(1 - sqrt(share of patches kept))^2 / 0.25^2), 1 for the image itself."""
        distance = 1 - to_float64(self.patches).mean(2).sqrt()
        return torch.exp(-distance.square() / KERNEL_WIDTH**2)

    def images(self, images: Tensor, index: Tensor, black: Tensor) -> Tensor:
        """The neighbours ``index``, numbered image by image, of ``images`` (n, C, H, W).

        Args:
            images: The images themselves.
            index: (b,) numbers in 0..nK-1.
            black: (C,) value of a black pixel after the preprocessing.
        """
        num_neighbours = self.patches.shape[1]
        kept = self.patches.flatten(0, 1)[index].to(images).unflatten(1, (1, *self.grid))
        kept = F.interpolate(kept, size=images.shape[-2:], mode="nearest")
        return torch.where(kept > 0, images[index // num_neighbours], black.to(images)[:, None, None])


def draw_neighbourhoods(
    num_images: int,
    num_neighbours: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Neighbourhoods:
    """Draws K neighbours per image; each keeps a patch with its own probability, uniform in [0.4, 1].

    They are drawn on the CPU, the same for every device.
    """
    probability = LEAST_KEPT + (1 - LEAST_KEPT) * torch.rand(num_images, num_neighbours, 1, generator=generator)
    chance = torch.rand(num_images, num_neighbours, grid[0] * grid[1], generator=generator)
    patches = (chance < probability).float()
    patches[:, 0] = 1
    return Neighbourhoods(patches.to(device), grid)


def fit_surrogates(neighbourhoods: Neighbourhoods, outputs: Tensor, ridge: float = 1.0) -> Tensor:
    """The local linear models of a network, one per image, by weighted ridge regression in closed form.

        G = argmin_W sum_k pi_k |f(x_k) - [b_k, 1] W|^2 + ridge |W|^2

    Args:
        neighbourhoods: Patches b and proximities pi.
        outputs: (n, K, C) the network's logits f on the neighbours.
        ridge: The penalty; the intercept is penalised too.

    Returns:
        (n, P + 1, C) float64.
    """
    design = _design(neighbourhoods)
    weighted = design * neighbourhoods.proximity[..., None]
    gram = weighted.transpose(1, 2) @ design
    return damped_solve(gram, weighted.transpose(1, 2) @ to_float64(outputs), ridge)


def surrogate_outputs(neighbourhoods: Neighbourhoods, surrogates: Tensor) -> Tensor:
    """What the local models (n, P + 1, C) say on their own neighbours: (n, K, C) float64."""
    return _design(neighbourhoods) @ surrogates


def _design(neighbourhoods: Neighbourhoods) -> Tensor:
    patches = to_float64(neighbourhoods.patches)
    return torch.cat([patches, torch.ones_like(patches[..., :1])], dim=2)
