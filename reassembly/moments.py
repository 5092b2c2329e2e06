"""Random adapters that can be scored: each channel gets the mean and deviation that the next block knows from home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reassembly.shelf import Bounded, Shelf
from zoo.blueprint import BlockSpec
from zoo.chain.modes import eval_mode
from zoo.chain.signals import Signal, to_grid
from zoo.stitching.adapters import NEGATIVE_SLOPE, Adapter, Kind, grid_of, resize


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


class MomentsAtHome:
    """Accumulates the moments of what a block receives, batch by batch, for an adapter of this kind in front of it."""

    def __init__(self, signal: Signal, kind: Kind) -> None:
        self.signal, self.kind = signal, kind
        self._channels = ChannelMoments()
        self._prefix: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Add a batch, n first."""
        values = to_grid(features, self.signal)
        if self.kind == "paper":
            values = torch.where(values < 0, values / NEGATIVE_SLOPE, values)
        self._channels.add(values)
        self._prefix = self._prefix + features[:, : self.signal.num_prefix_tokens].sum(0, keepdim=True)

    def compute(self) -> Moments:
        """The moments of all that was added."""
        mean, variance = self._channels.compute()
        prefix = self._prefix / self._channels.count if self.signal.num_prefix_tokens else mean[:0]
        return Moments(mean, variance.sqrt(), prefix)


def home_moments(features: Tensor, signal: Signal, kind: Kind) -> Moments:
    """Moments of a block's home features (n first), for an adapter of this kind in front of it."""
    moments = MomentsAtHome(signal, kind)
    moments.add(features)
    return moments.compute()


class ChannelMoments:
    """Mean and variance per channel of (n, C, H, W), accumulated over batches.

    Batches are merged as in Chan, Golub and LeVeque (1983), so that no large sums cancel; inside a batch each image is
    reduced first, which is several times faster than all at once.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Add a batch, all of the same grid."""
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


def channel_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel of (n, C, H, W) given in batches."""
    moments = ChannelMoments()
    for values in batches:
        moments.add(values)
    return moments.compute()


@torch.no_grad()
def matched_adapter(
    source: Signal,
    target: Signal,
    inputs: Tensor,
    moments: Moments,
    kind: Kind,
    generator: torch.Generator,
    batch_size: int = 100,
) -> Adapter:
    """A random 1x1 adapter, each output channel scaled and shifted so that on ``inputs`` it has the home moments.

    Args:
        source: Signal of ``inputs``.
        target: What the next block expects.
        inputs: What comes in for the probe images, n first.
        moments: Of the next block's home features.
        kind: ``linear`` or ``paper``; the norm of the latter gets the statistics of ``inputs``.
        generator: Of the random weights.
        batch_size: Images whose values in front of the next block are held at a time.
    """
    adapter = Adapter(source, target, kind=kind, generator=generator).to(inputs.device).eval()

    def values() -> Iterator[Tensor]:
        return (resize(to_grid(batch, source), grid_of(target)) for batch in inputs.split(batch_size))

    if kind == "paper":
        mean, variance = channel_moments(values())
        adapter.norm.running_mean.copy_(mean)
        adapter.norm.running_var.copy_(variance)
    projection = adapter.projection
    mean, variance = channel_moments(projection(adapter.norm(batch)) for batch in values())
    deviation = variance.sqrt()
    scale = moments.deviation / torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)
    projection.weight.mul_(scale[:, None, None, None])
    projection.bias.copy_(moments.mean - scale * mean)
    if adapter.prefix is not None:
        adapter.prefix.copy_(moments.prefix)
    return adapter


class Home:
    """What blocks receive in their own networks on the probe images, computed when first asked for and kept.

    Args:
        shelf: Of the blocks; one pass through a network serves all that are wanted of it.
        images_for: Name of a network -> the probe images as it takes them.
        kind: Of the adapters.
        batch_size: Images per forward pass.
    """

    def __init__(self, shelf: Shelf, images_for: Callable[[str], Tensor], kind: Kind, batch_size: int) -> None:
        self.shelf, self.images_for, self.kind, self.batch_size = shelf, images_for, kind, batch_size
        self._moments: dict[BlockSpec, Moments] = {}
        self._features = Bounded()

    @torch.no_grad()
    def moments(self, block: BlockSpec) -> Moments:
        """Moments of what comes into a block; only these few numbers are kept."""
        if block not in self._moments:
            chain = self.shelf.chains[block.network]
            blocks = [b for b in {*self.shelf.wanted[block.network], block} if b.nodes[0] > 0]
            starts = sorted({b.nodes[0] for b in blocks})
            found = {start: MomentsAtHome(chain.signal(start), self.kind) for start in starts}
            pieces = [chain.block(*nodes) for nodes in zip([0, *starts], starts, strict=False)]
            with eval_mode(chain.network):
                for batch in self.images_for(block.network).split(self.batch_size):
                    for start, piece in zip(starts, pieces, strict=True):
                        batch = piece(batch)
                        found[start].add(batch)
            self._moments |= {b: found[b.nodes[0]].compute() for b in blocks}
        return self._moments[block]

    @torch.no_grad()
    def features(self, block: BlockSpec) -> Tensor:
        """What comes into a block, n first; kept as far as memory goes."""
        if block in self._features:
            return self._features[block]
        before = self.shelf.chains[block.network].block(0, block.nodes[0])
        features = run(before, self.images_for(block.network), self.batch_size)
        self._features.put(block, features, features.nbytes)
        return features


def run(
    module: nn.Module, inputs: Tensor, batch_size: int, around_first: AbstractContextManager | None = None
) -> Tensor:
    """The module's outputs for all inputs, in evaluation mode and in batches.

    Args:
        module: Maps a batch to a batch.
        inputs: n first.
        batch_size: Images per forward pass.
        around_first: Entered around the first batch.
    """
    outputs = None
    with eval_mode(module):
        for start in range(0, len(inputs), batch_size):
            with (around_first or nullcontext()) if start == 0 else nullcontext():
                batch = module(inputs[start : start + batch_size])
            if outputs is None:
                outputs = batch.new_empty((len(inputs), *batch.shape[1:]))
            outputs[start : start + len(batch)] = batch
    return outputs
