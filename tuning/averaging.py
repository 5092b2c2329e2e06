"""Averages of what is trained: exponential over the steps, plain over checkpoints; the frozen part is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tuning.sharding import like, local


class MovingAverage:
    """Averages of tensors that training changes in place.

    Floating-point tensors are averaged, ``a <- decay a + (1 - decay) w`` after every step; whole numbers, such as the
    counters of BatchNorm, are copied. Of tensors in shards each process averages its own.

    Args:
        tensors: By name, as ``TunableNetwork.trained_state`` gives them; the average starts from their values.
        decay: In [0, 1).
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self._names = {name: id(tensor) for name, tensor in tensors.items()}
        self._tensors = {id(tensor): tensor.detach() for tensor in tensors.values()}  # shared ones once
        self._averages = {key: local(tensor).clone() for key, tensor in self._tensors.items()}
        self._update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the tensors' present values."""
        floats = [key for key, tensor in self._tensors.items() if tensor.is_floating_point()]
        if floats:
            self._update([self._averages[key] for key in floats], [local(self._tensors[key]) for key in floats], 1)
        for key in self._tensors.keys() - floats:
            self._averages[key].copy_(self._tensors[key])

    @torch.no_grad()
    def exchange(self) -> None:
        """Puts the averages where the tensors are and the tensors' values here; a second call undoes the first."""
        for key, whole in self._tensors.items():
            tensor = local(whole)
            values = tensor.clone()
            tensor.copy_(self._averages[key])
            self._averages[key].copy_(values)

    def state(self) -> dict[str, Tensor]:
        """The averages under the tensors' names; not copied."""
        return {name: like(self._averages[key], self._tensors[key]) for name, key in self._names.items()}


def mean_state(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors by name, in float64 and rounded to their own type; whole numbers are those of the last state.

    Averages of weights along one training: 1803.05407, 2203.05482. Statistics of BatchNorm are averaged, too, and have
    to be measured anew for the averaged weights (``norm_stats.measure_norm_stats``).

    Args:
        states: At least one, of the same names; read one after the other.
    """
    sums: dict[str, Tensor] = {}
    last: Mapping[str, Tensor] = {}
    count = 0
    for last in states:
        count += 1
        for name, tensor in last.items():
            if tensor.is_floating_point():
                sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
    return {name: (sums[name] / count).to(tensor.dtype) if name in sums else tensor for name, tensor in last.items()}
