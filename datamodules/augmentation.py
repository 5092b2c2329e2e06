"""Random affine distortion of image batches, drawn from a table so that every image's draw is known by its index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """Bounds of a uniform random affine map: turned by +-`rotation_degrees`, shifted by +-`shift` (share of the side),
    scaled by a factor from `scale`."""

    rotation_degrees: float = 10.0
    shift: float = 1 / 16
    scale: tuple[float, float] = (0.9, 1.1)

    num_draws = 4

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Distorts float (n, C, H, W) images by uniform draws (n, 4) from [0, 1); outside pixels repeat the border."""
        angle = (2 * draws[:, 0] - 1) * math.radians(self.rotation_degrees)
        factor = self.scale[0] + draws[:, 1] * (self.scale[1] - self.scale[0])
        shift = (2 * draws[:, 2:4] - 1) * self.shift * 2  # the grid of affine_grid runs from -1 to 1
        cos, sin = angle.cos() / factor, angle.sin() / factor
        aspect = images.shape[-1] / images.shape[-2]
        theta = torch.stack([cos, -sin / aspect, shift[:, 0], sin * aspect, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
