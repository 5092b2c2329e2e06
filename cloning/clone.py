"""What is grafted, and where: positions of the target and what they feed in a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.frozen import FrozenNetwork, ThawedNetwork
from cloning.slimming import Slim
from zoo.chain import Costs


@dataclass(frozen=True)
class Clone:
    """A located part of a source, and where it is grafted.

    Attributes:
        source: The network that gives.
        classes: The classes it gives, names of its outputs.
        gates: (n,) of 0 and 1, for ``source.sites``.
        position: The cut R of the target's chain that feeds it; at 0 the source sees the image itself.
        selected: (k,) int64, in order: which of the features that the source's classifier reads F_c reads; ``None`` for
            all.
    """

    source: FrozenNetwork
    classes: tuple[str, ...]
    gates: Tensor
    position: int
    selected: Tensor | None = None
    _slims: dict[tuple[int, torch.device], Slim] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def parts(self) -> dict[str, Tensor]:
        """What of its source it is, by name."""
        return {"gates": self.gates} | ({} if self.selected is None else {"selected": self.selected})

    @property
    def num_features(self) -> int:
        """How many numbers it gives to the head."""
        return self.source.num_features if self.selected is None else len(self.selected)

    def slim(self, start: int, device: torch.device | str = "cpu") -> Slim:
        """The module as a network of its own, from a cut of the source on."""
        key = (start, torch.device(device))
        if key not in self._slims:
            self._slims[key] = self.source.slim(self.gates, start, device)
        return self._slims[key]

    def costs(self, start: int) -> Costs:
        """Of what runs: the slim module, or all of a source that is being trained."""
        if isinstance(self.source, ThawedNetwork):
            return self.source.slim(torch.ones_like(self.gates), start).costs
        return self.slim(start).costs

    def select(self, features: Tensor) -> Tensor:
        """Of what the source's classifier reads, (N, d), what the head does."""
        return features if self.selected is None else features.index_select(1, self.selected.to(features.device))

    def classify(self, features: Tensor) -> Tensor:
        """What the source's classifier, (N, C), makes of the features that are selected."""
        source = self.source
        weight = source.weight if self.selected is None else source.weight[:, self.selected]
        return F.linear(features, weight.to(features), source.bias.to(features))

    def features(self, x: Tensor, start: int) -> Tensor:
        """What the source's classifier reads of the module, (N, d), for the tensor ``x`` at a cut of the source.

        The closed units of a source that is being trained (``tuning=full``) are zeros; else they are cut out.
        """
        if isinstance(self.source, ThawedNetwork):
            return self.source.features(x, start=start, gates=self.gates.to(x))
        return self.slim(start, x.device).network(x)


def num_positions(target: FrozenNetwork) -> int:
    """Positions 0 (the image), 1 (behind the stem), ... up to the input of the head."""
    return len(target.chain)


def spread_cuts(target: FrozenNetwork, number: int) -> tuple[int, ...]:
    """So many cuts of the target's chain, spread evenly from the output of the stem to the input of the head.

    Of fewer that there are all.
    """
    last = len(target.chain) - 1
    if number >= last:
        return tuple(range(1, last + 1))
    steps = [index / (number - 1) for index in range(number)] if number > 1 else [1.0] * number
    return tuple(1 + round(step * (last - 1)) for step in steps)


def num_means(target: FrozenNetwork, head_cuts: Sequence[int]) -> int:
    """How many mean features there are at some cuts of the target together."""
    return sum(target.chain.signal(cut).channels for cut in head_cuts)


def source_position(target: FrozenNetwork, source: FrozenNetwork, position: int) -> int:
    """The cut of the source that a position of the target feeds: 0 for 0, else the same relative depth."""
    if position == 0:
        return 0
    depth = (position - 1) / (len(target.chain) - 2)
    return 1 + round(depth * (len(source.chain) - 2))
