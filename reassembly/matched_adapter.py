"""Random adapters that can be scored: each channel gets the mean and deviation that the next block knows from home."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.chain.signals import Signal, to_grid
from zoo.stitching.adapters import NEGATIVE_SLOPE, Adapter, Kind, native_grid, resize


@dataclass(frozen=True)
class InputStatistics:
    """What a block receives at home, per channel.

    Attributes:
        mean: (C,), over images and positions; for the ``paper`` kind that of the values before its activation.
        deviation: (C,), likewise.
        prefix: (1, P, C), the mean prefix tokens; P may be 0.
    """

    mean: Tensor
    deviation: Tensor
    prefix: Tensor


class InputStatisticsAccumulator:
    """Accumulates what a block receives, batch by batch, for an adapter of this kind in front of it."""

    def __init__(self, signal: Signal, kind: Kind) -> None:
        self.signal, self.kind = signal, kind
        self._channels = ChannelStatistics()
        self._prefix: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Adds a batch, n first."""
        features = features.float()
        values = to_grid(features, self.signal)
        if self.kind == "paper":
            values = torch.where(values < 0, values / NEGATIVE_SLOPE, values)
        self._channels.add(values)
        self._prefix = self._prefix + features[:, : self.signal.num_prefix_tokens].sum(0, keepdim=True)

    def compute(self) -> InputStatistics:
        """The statistics of all that was added."""
        mean, variance = self._channels.compute()
        prefix = self._prefix / self._channels.count if self.signal.num_prefix_tokens else mean[:0]
        return InputStatistics(mean, variance.sqrt(), prefix)


def input_statistics(features: Tensor, signal: Signal, kind: Kind) -> InputStatistics:
    """Statistics of a block's home features (n first), for an adapter of this kind in front of it."""
    statistics = InputStatisticsAccumulator(signal, kind)
    statistics.add(features)
    return statistics.compute()


class ChannelStatistics:
    """Mean and variance per channel of (n, C, H, W), accumulated over batches.

    Batches are merged as in Chan, Golub and LeVeque (1983), so that no large sums cancel; inside a batch each image is
    reduced first, which is several times faster than all at once.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Adds a batch, all of the same grid."""
        mean = values.mean((2, 3)).mean(0)
        variance = (values - mean[:, None, None]).square_().mean((2, 3)).mean(0)
        if self.count == 0:
            self.count, self._mean, self._variance = len(values), mean, variance
            return
        self.count += len(values)
        share, step = len(values) / self.count, mean - self._mean
        self._mean = self._mean + share * step
        self._variance = (1 - share) * self._variance + share * variance + share * (1 - share) * step.square()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (C,) each."""
        return self._mean, self._variance


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel of (n, C, H, W) given in batches."""
    statistics = ChannelStatistics()
    for values in batches:
        statistics.add(values)
    return statistics.compute()


@torch.no_grad()
def matched_adapter(
    source: Signal,
    target: Signal,
    inputs: Tensor,
    statistics: InputStatistics,
    kind: Kind,
    generator: torch.Generator,
    batch_size: int = 100,
) -> Adapter:
    """A random 1x1 adapter, each output channel scaled and shifted so that on ``inputs`` it has the home statistics.

    Args:
        source: Signal of ``inputs``.
        target: What the next block expects.
        inputs: What comes in for the probe images, n first.
        statistics: Of the next block's home features.
        kind: ``linear`` or ``paper``; the norm of the latter gets the statistics of ``inputs``.
        generator: Of the random weights.
        batch_size: Images whose values in front of the next block are held at a time.
    """
    adapter = Adapter(source, target, kind=kind, generator=generator).to(inputs.device).eval()

    def values() -> Iterator[Tensor]:
        return (resize(to_grid(batch, source), native_grid(target)) for batch in inputs.split(batch_size))

    if kind == "paper":
        mean, variance = channel_statistics(values())
        adapter.norm.running_mean.copy_(mean)
        adapter.norm.running_var.copy_(variance)
    projection = adapter.projection
    mean, variance = channel_statistics(projection(adapter.norm(batch)) for batch in values())
    deviation = variance.sqrt()
    scale = statistics.deviation / torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)
    projection.weight.mul_(scale[:, None, None, None])
    projection.bias.copy_(statistics.mean - scale * mean)
    if adapter.prefix is not None:
        adapter.prefix.copy_(statistics.prefix)
    return adapter
