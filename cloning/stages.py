"""What runs in front of a cloned network's head: the frozen trunk, computed once, and the grafts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork
from zoo.chain.signals import pool
from zoo.conversion import convert


class Trunk(nn.Module):
    """Images to all that lies in front of the adapters, as one vector per image, which can be computed once.

    The vector holds the target's features, those of the clones at position 0, and the tensor at every other position.
    """

    def __init__(
        self, target: FrozenNetwork, clones: Sequence[Clone], copies: nn.ModuleList, head_cuts: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.target, self.clones, self.copies, self.head_cuts = target, clones, copies, head_cuts

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and len(self.copies) > 0):
            own, at = target_features(self.target, x, self.head_cuts, _positions(self.clones))
            pieces = [own]
            for clone in self.clones:
                if clone.position == 0:
                    pieces.append(module_features(clone, convert(x, self.target.input, clone.source.input)))
            return torch.cat([*pieces, *(value.flatten(1) for value in at.values())], dim=1)


class Grafts(nn.Module):
    """The trunk's vector to the features that the head reads, of which the first ``num_target_features`` are there."""

    def __init__(
        self,
        target: FrozenNetwork,
        clones: Sequence[Clone],
        adapters: nn.ModuleList,
        copies: nn.ModuleList,
        num_target_features: int,
    ) -> None:
        super().__init__()
        self.target, self.clones, self.adapters, self.copies = target, clones, adapters, copies
        shapes = {position: target.chain.signal(position).shape(1)[1:] for position in _positions(clones)}
        self._shapes = shapes
        direct = [clone.num_features for clone in clones if clone.position == 0]
        self._sizes = [num_target_features, *direct, *(torch.Size(shape).numel() for shape in shapes.values())]

    def forward(self, packed: Tensor) -> Tensor:
        target, *rest = packed.split(self._sizes, dim=1)
        direct = iter(rest)
        at = dict(zip(self._shapes, rest[len(rest) - len(self._shapes) :], strict=True))
        features = [target]
        for clone, adapter in zip(self.clones, self.adapters, strict=True):
            if clone.position == 0:
                features.append(next(direct))
                continue
            x = adapter(at[clone.position].unflatten(1, self._shapes[clone.position]))
            start = source_position(self.target, clone.source, clone.position)
            features.append(module_features(clone, x, start))
        return torch.cat(features, dim=1)


def target_features(
    target: FrozenNetwork, images: Tensor, head_cuts: Sequence[int], positions: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """What the head reads of the target, and the tensors at some positions, in one pass.

    Args:
        target: The network that receives.
        images: (N, C, H, W) preprocessed for it.
        head_cuts: Cuts whose mean features are read beside what the target's own classifier reads, in order.
        positions: Cuts behind the image.

    Returns:
        (N, d), the target's own features first, and the tensors by position.
    """
    at, means, reached, value = {}, [], 0, images
    for cut in sorted({*head_cuts, *positions}):
        value, reached = target.features_at(cut, value, start=reached), cut
        if cut in head_cuts:
            means.append(pool(value, target.chain.signal(cut)))
        if cut in positions:
            at[cut] = value
    own = target.features(value, start=reached)
    return torch.cat([own, *means], dim=1) if means else own, at


def module_features(clone: Clone, x: Tensor, start: int = 0) -> Tensor:
    """What a clone's module gives to the head, (N, k), for the tensor ``x`` at the cut ``start`` of its source."""
    return clone.select(clone.features(x, start))


def _positions(clones: Sequence[Clone]) -> list[int]:
    return sorted({clone.position for clone in clones} - {0})
