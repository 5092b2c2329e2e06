"""Gradient accumulation: the images of several batches make one step, however many there are of either."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tuning.sharding import local


class Accumulation:
    """Makes the gradient of a group of batches that of the mean loss over all its images, as one large batch has it.

    Lightning divides the loss of every batch by ``num_batches``. That is the mean only where all batches are of one
    size and the group is full, which the last group of an epoch mostly is not.

    Args:
        num_batches: Of a full group.
    """

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self._first: int | Tensor = 1
        self._count: int | Tensor = 1

    def scaled(self, loss_sum: Tensor, count: int | Tensor, batch_idx: int) -> Tensor:
        """The loss to give to Lightning for a batch whose loss, summed over its ``count`` images, is ``loss_sum``."""
        if batch_idx % self.num_batches == 0:
            self._first = self._count = count
        else:
            self._count = self._count + count
        return loss_sum * self.num_batches / self._first

    def complete(self, parameters: Iterable[nn.Parameter]) -> None:
        """Turns the gradients of a group into those of its mean, after its last backward pass."""
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, self._first / self._count)
