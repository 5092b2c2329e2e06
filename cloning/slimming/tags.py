"""Tags: which unit each element of a tensor belongs to, and which units have to be cut together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING, ZERO = 0, -1
"""Tags of an element that is of no unit, and of one that is zero whatever is cut (padding)."""


@dataclass(frozen=True)
class Tags:
    """Of a tensor, element by element, in shapes that broadcast to the tensor's: 1 where they are the same all along.

    Attributes:
        unit: int64, the unit it belongs to; ``NOTHING`` or ``ZERO`` if to none.
        gate: int64, one more than the number of a gate that makes it zero when closed; 0 if none does.
    """

    unit: Tensor
    gate: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Tags:
        """The tags after an operation that only moves elements."""
        return Tags(function(self.unit), function(self.gate))

    def full(self, shape: torch.Size) -> Tags:
        """One for each element of a tensor of this shape."""
        return self.map(lambda tag: tag.expand(shape))

    def compact(self) -> Tags:
        """Of size 1 wherever they are the same all along."""
        return self.map(_compact)

    def without_gates(self) -> Tags:
        """The tags after an operation that does not leave zero as it is."""
        return Tags(self.unit, torch.zeros_like(self.gate))


def _compact(tag: Tensor) -> Tensor:
    for dim in range(tag.ndim):
        if not varies(tag, dim):
            tag = tag.narrow(dim, 0, 1)
    return tag.clone()


def nothing(num_dims: int) -> Tags:
    """The tags of a tensor that has none."""
    return Tags(*(torch.full((1,) * num_dims, NOTHING) for _ in range(2)))


def varies(tags: Tensor, dim: int) -> bool:
    """Whether the tags differ along a dimension."""
    return tags.shape[dim] > 1 and not bool((tags == tags.narrow(dim, 0, 1)).all())


class Ties:
    """Sets of units that are cut together (union-find), and units that cannot be cut at all."""

    def __init__(self) -> None:
        self._parent = [0]
        self._kept: set[int] = set()

    def new(self, n: int) -> Tensor:
        """Tags of ``n`` new units, (n,)."""
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return torch.arange(start, start + n)

    def find(self, unit: int) -> int:
        """The unit that stands for all that are tied to it."""
        root = unit
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[unit] != root:
            self._parent[unit], unit = root, self._parent[unit]
        return root

    def keep(self, tags: Tensor | Iterable[int]) -> None:
        """Units that have to stay as they are."""
        values = tags.unique().tolist() if isinstance(tags, Tensor) else tags
        self._kept.update(unit for unit in values if unit > 0)

    @property
    def kept(self) -> set[int]:
        """Those that stand for what has to stay."""
        return {self.find(unit) for unit in self._kept}

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Ties the units of two tag tensors that broadcast, element by element."""
        a, b = torch.broadcast_tensors(a, b)
        both = (a > 0) & (b > 0) & (a != b)
        if both.any():
            pairs = (a[both] * len(self._parent) + b[both]).unique()
            for pair in pairs.tolist():
                first, second = self.find(pair // len(self._parent)), self.find(pair % len(self._parent))
                self._parent[max(first, second)] = min(first, second)

    def tie_along(self, tags: Tensor, dim: int) -> Tensor:
        """Ties what meets along a dimension; the tags with that dimension of size 1."""
        first = tags.amax(dim, keepdim=True)
        mixed = (tags == NOTHING) & (first > 0)
        if mixed.any():  # units that meet what is none
            self.keep(tags)
            return torch.zeros_like(first)
        self.tie(first, tags)
        return first

    def merge(self, a: Tags, b: Tags, sizes: Sequence[torch.Size], *, is_product: bool) -> Tags:
        """The tags of a result that depends on both, element by element; of a product either one makes it zero.

        Args:
            a: Of one operand, whose units the result has where both have any.
            b: Of the other.
            sizes: The shapes of both operands.
            is_product: Of the result.
        """
        ndim = max(map(len, sizes))
        a, b = (x.map(lambda tag: tag[(None,) * (ndim - tag.ndim)]) for x in (a, b))
        shapes = [(1,) * (ndim - len(size)) + tuple(size) for size in sizes]
        a, b = (
            Tags(self._broadcastable(x.unit, y.unit, size), x.gate)
            for x, y, size in ((a, b, shapes[1]), (b, a, shapes[0]))
        )
        self.tie(a.unit, b.unit)
        units = torch.where(a.unit > 0, a.unit, torch.maximum(a.unit, b.unit))
        gate_a, gate_b = torch.broadcast_tensors(a.gate, b.gate)
        gate = torch.where(gate_a > 0, gate_a, gate_b) if is_product else torch.zeros((1,) * ndim, dtype=torch.int64)
        return Tags(units, gate)

    def _broadcastable(self, tags: Tensor, others: Tensor, size: Sequence[int]) -> Tensor:
        """The tags, unless a unit would be cut whose neighbour in the other operand stays as wide as it is."""
        wide, other = torch.broadcast_tensors(tags, others)
        alone = (wide > 0) & (other == NOTHING)
        if not alone.any():
            return tags
        if not (others > 0).any() and not any(n > 1 and varies(tags, dim) for dim, n in enumerate(size)):
            return tags  # one number for all units
        self.keep(wide[alone])
        return torch.where(alone, NOTHING, wide)
