"""What runs through a cut of a chain: one tensor, described by its layout, channels, grid and prefix tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

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


def to_grid(x: torch.Tensor, signal: Signal) -> torch.Tensor:
    """The tensor as (N, C, H, W), without its prefix tokens; ``NC`` becomes (N, C, 1, 1)."""
    if signal.layout == "NCHW":
        return x
    if signal.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    if signal.layout == "NLC":
        patches = x[:, signal.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, signal.grid)
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
