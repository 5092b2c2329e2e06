"""What runs through a cut of a chain: one tensor, described by its layout, channels, grid and prefix tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from zoo.errors import UserError

Layout = Literal["NCHW", "NHWC", "NLC", "NC"]


@dataclass(frozen=True)
class Signal:
    """The shape of the tensor at a cut, for every batch size.

    Attributes:
        layout: Order of the axes; ``NLC`` are tokens, prefix tokens first, then the grid row by row.
        channels: Size of the channel axis.
        grid: Height and width of the grid of positions; ``None`` for ``NC``. Tokens whose grid cannot be
            derived have the grid ``(L, 1)``.
        num_prefix_tokens: Tokens in front of the grid (class, distillation and register tokens); 0 unless ``NLC``.
        stride: Height of the network's input over the height of the grid; ``None`` without a grid or an image.
    """

    layout: Layout
    channels: int
    grid: tuple[int, int] | None
    num_prefix_tokens: int = 0
    stride: float | None = None

    def __post_init__(self) -> None:
        assert self.layout in ("NCHW", "NHWC", "NLC", "NC"), self.layout
        assert (self.grid is None) == (self.layout == "NC"), f"{self.layout} with grid {self.grid}"
        assert self.num_prefix_tokens == 0 or self.layout == "NLC", f"prefix tokens in {self.layout}"

    def shape(self, batch_size: int) -> tuple[int, ...]:
        """The tensor's shape for a batch."""
        if self.grid is None:
            return (batch_size, self.channels)
        height, width = self.grid
        if self.layout == "NCHW":
            return (batch_size, self.channels, height, width)
        if self.layout == "NHWC":
            return (batch_size, height, width, self.channels)
        return (batch_size, self.num_prefix_tokens + height * width, self.channels)

    def __str__(self) -> str:
        grid = f" @{self.grid[0]}x{self.grid[1]}" if self.grid else ""
        prefix = f" +{self.num_prefix_tokens}" if self.num_prefix_tokens else ""
        return f"{self.layout} {self.channels}{grid}{prefix}"


def grid_of(x: torch.Tensor, signal: Signal) -> tuple[int, int]:
    """Height and width of the tensor's grid; at another resolution than the native one they are read off its shape.

    Tokens alone do not tell their grid: it is taken to have the native aspect ratio, as nearly as their number allows.

    Raises:
        UserError: two grids fit the number of tokens equally well.
    """
    if signal.layout == "NCHW":
        return x.shape[2], x.shape[3]
    if signal.layout == "NHWC":
        return x.shape[1], x.shape[2]
    assert signal.grid is not None, f"{signal} has no grid"
    height, width = signal.grid
    num_tokens = x.shape[1] - signal.num_prefix_tokens
    if num_tokens == height * width:
        return height, width
    if width == 1:
        return num_tokens, 1
    grids = [(h, num_tokens // h) for h in range(1, num_tokens + 1) if num_tokens % h == 0]
    distances = {grid: abs(math.log(grid[0] * width) - math.log(grid[1] * height)) for grid in grids}
    best = [grid for grid in grids if math.isclose(distances[grid], min(distances.values()), abs_tol=1e-9)]
    if len(best) != 1:
        raise UserError(
            f"{num_tokens} tokens may be a grid of {best}: use a size with the aspect ratio {height}:{width}"
        )
    return best[0]


def to_grid(x: torch.Tensor, signal: Signal) -> torch.Tensor:
    """The tensor as (N, C, H, W), without its prefix tokens; ``NC`` becomes (N, C, 1, 1)."""
    if signal.layout == "NCHW":
        return x
    if signal.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    if signal.layout == "NLC":
        patches = x[:, signal.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, grid_of(x, signal))
    return x[:, :, None, None]


def pool(x: torch.Tensor, signal: Signal) -> torch.Tensor:
    """The mean over the grid, without prefix tokens: (N, C).

    Works at any resolution: only the layout and the number of prefix tokens are used, not the native grid.
    """
    if signal.layout == "NCHW":
        return x.mean((2, 3))
    if signal.layout == "NHWC":
        return x.mean((1, 2))
    if signal.layout == "NLC":
        return x[:, signal.num_prefix_tokens :].mean(1)
    return x
