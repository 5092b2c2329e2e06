"""Random adapters that can be scored: each channel gets the mean and deviation that the next block knows from home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.adapters import NEGATIVE_SLOPE, Adapter, Kind, grid_of, resize
from zoo.blueprint import BlockSpec
from zoo.chain import Chain
from zoo.modes import eval_mode
from zoo.signals import Signal, to_grid


@dataclass(frozen=True)
class Moments:
    """What a block receives at home, per channel.

    Attributes:
        mean: (C,), over images and positions; for the ``paper`` kind that of the values before its activation.
        deviation: (C,), likewise.
        prefix: (1, P, C), the mean prefix tokens; P may be 0.
    """

    mean: Tensor
    deviation: Tensor
    prefix: Tensor


def home_moments(features: Tensor, signal: Signal, kind: Kind) -> Moments:
    """Moments of a block's home features (n first), for an adapter of this kind in front of it."""
    values = to_grid(features, signal)
    if kind == "paper":
        values = torch.where(values < 0, values / NEGATIVE_SLOPE, values)
    mean, variance = channel_moments(values)
    prefix = features[:, : signal.num_prefix_tokens].mean(0, keepdim=True) if signal.num_prefix_tokens else features[:0]
    return Moments(mean, variance.sqrt(), prefix)


def channel_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of (n, C, H, W) per channel; image by image first, several times faster than all at once."""
    mean = values.mean((2, 3)).mean(0)
    return mean, (values - mean[:, None, None]).square_().mean((2, 3)).mean(0)


@torch.no_grad()
def matched_adapter(
    source: Signal, target: Signal, inputs: Tensor, moments: Moments, kind: Kind, generator: torch.Generator
) -> Adapter:
    """A random 1x1 adapter, each output channel scaled and shifted so that on ``inputs`` it has the home moments.

    Args:
        source: Signal of ``inputs``.
        target: What the next block expects.
        inputs: What comes in for the probe images, n first.
        moments: Of the next block's home features.
        kind: ``linear`` or ``paper``; the norm of the latter gets the statistics of ``inputs``.
        generator: Of the random weights.
    """
    adapter = Adapter(source, target, kind=kind, generator=generator).to(inputs.device).eval()
    values = resize(to_grid(inputs, source), grid_of(target))
    if kind == "paper":
        mean, variance = channel_moments(values)
        adapter.norm.running_mean.copy_(mean)
        adapter.norm.running_var.copy_(variance)
    projection = adapter.projection
    mean, variance = channel_moments(projection(adapter.norm(values)))
    deviation = variance.sqrt()
    scale = moments.deviation / torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)
    projection.weight.mul_(scale[:, None, None, None])
    projection.bias.copy_(moments.mean - scale * mean)
    if adapter.prefix is not None:
        adapter.prefix.copy_(moments.prefix)
    return adapter


class Home:
    """What blocks receive in their own networks on the probe images, computed when first asked for and kept."""

    def __init__(
        self, chains: Mapping[str, Chain], images_for: Callable[[str], Tensor], kind: Kind, batch_size: int
    ) -> None:
        self.chains, self.images_for, self.kind, self.batch_size = chains, images_for, kind, batch_size
        self._moments: dict[BlockSpec, Moments] = {}
        self._features: dict[BlockSpec, Tensor] = {}

    def moments(self, block: BlockSpec) -> Moments:
        """Moments of what comes into a block; only these few numbers are kept."""
        if block not in self._moments:
            signal = self.chains[block.network].signal(block.nodes[0])
            self._moments[block] = home_moments(self._run(block), signal, self.kind)
        return self._moments[block]

    def features(self, block: BlockSpec) -> Tensor:
        """What comes into a block, n first, in memory from now on."""
        if block not in self._features:
            self._features[block] = self._run(block)
        return self._features[block]

    @torch.no_grad()
    def _run(self, block: BlockSpec) -> Tensor:
        before = self.chains[block.network].block(0, block.nodes[0])
        return run(before, self.images_for(block.network), self.batch_size)


def run(module: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    """The module's outputs for all inputs, in evaluation mode and in batches."""
    with eval_mode(module):
        return torch.cat([module(batch) for batch in inputs.split(batch_size)])
