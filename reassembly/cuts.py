"""Stages of a network whose head reads the features behind every block: what is pooled travels beside the signal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Beside(nn.Module):
    """A stage of a network whose head reads all cuts: (x, pooled) -> (stage(x), pooled and what is pooled here).

    Args:
        stage: Maps x to what comes next.
        pool: Of its output, where that is a cut.
        is_last: What it gives are features themselves: (N, D), behind all that was pooled before.
    """

    def __init__(self, stage: nn.Module, pool: nn.Module | None, *, is_last: bool) -> None:
        super().__init__()
        self.stage, self.pool, self.is_last = stage, pool, is_last

    def forward(self, state: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        x, *pooled = state if isinstance(state, tuple) else (state,)
        x = self.stage(x)
        if self.is_last:
            return torch.cat([*pooled, x], 1)
        return (x, *pooled) if self.pool is None else (x, *pooled, self.pool(x))


class Packed(nn.Module):
    """(x, pooled ...) as one tensor (N, M), which can be computed once and kept."""

    def forward(self, state: tuple[Tensor, ...]) -> Tensor:
        x, *pooled = state
        return torch.cat([x.flatten(1), *pooled], 1)


class Unpacked(nn.Module):
    """What ``Packed`` packed; the features pooled so far come as one.

    Args:
        shape: Of x, without the batch.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        size = math.prod(self.shape)
        return packed[:, :size].unflatten(1, self.shape), packed[:, size:]
