"""The head of a network that was tuned before, for the classes of other data: which rows stay, which are made anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tuning.network import TunableNetwork

NUM_CALIBRATION_IMAGES = 2048
"""That place rows made anew beside rows that are kept; the first ones, which are stratified."""

_MAX_NAMED = 6


@dataclass(frozen=True)
class HeadRows:
    """The rows of a head for the classes of some data, by where they come from.

    Attributes:
        classes: Of the data, one a row.
        kept: Row -> row of the old head: of the same name, learnt on the same images.
        changed: Rows whose class the old head knows by name, but learnt on other images.
        is_whole: Whether the old head serves as it is: all of its rows in their order.
    """

    classes: tuple[str, ...]
    kept: Mapping[int, int]
    changed: tuple[int, ...]
    is_whole: bool

    @property
    def are_learnt(self) -> bool:
        """Whether no row is made anew."""
        return len(self.kept) == len(self.classes)

    def __str__(self) -> str:
        count = len(self.classes)
        if self.is_whole:
            return f"all {count} rows kept: the same classes of the same data"
        names = {"kept": list(self.kept), "made anew, on other images": list(self.changed)}
        names["made anew"] = [row for row in range(count) if row not in self.kept and row not in self.changed]
        parts = (f"{kind}: {_some([self.classes[row] for row in rows])}" for kind, rows in names.items() if rows)
        return f"{len(self.kept)} of {count} rows kept ({'; '.join(parts)})"


def match_rows(
    old: Sequence[str] | None, new: Sequence[str], learnt: Mapping[str, str], wanted: Mapping[str, str]
) -> HeadRows:
    """Which rows of a head can be kept for other data.

    Args:
        old: Names of the rows there are; None where only their number is known.
        new: Names of the classes wanted.
        learnt: By name, the digest of the images that a class was learnt on; names it lacks count as other images.
        wanted: By name, the digest of a class's images in the data.
    """
    old, new = list(old or ()), tuple(new)
    same = {name for name in new if name in old and name in learnt and learnt[name] == wanted[name]}
    kept = {row: old.index(name) for row, name in enumerate(new) if name in same}
    changed = tuple(row for row, name in enumerate(new) if name in old and name not in same)
    return HeadRows(new, kept, changed, is_whole=list(kept.values()) == list(range(len(old))) and len(kept) == len(new))


@torch.no_grad()
def replace_head(network: TunableNetwork, rows: HeadRows, generator: torch.Generator) -> None:
    """Gives a network a head of these rows, in place: kept ones bit for bit, the others random."""
    if rows.is_whole:
        return
    old = network.head
    head = skip_init(nn.Linear, old.in_features, len(rows.classes), dtype=old.weight.dtype)
    head.weight.normal_(0, 1 / math.sqrt(old.in_features), generator=generator)
    head.bias.zero_()
    for row, before in rows.kept.items():
        head.weight[row], head.bias[row] = old.weight[before], old.bias[before]
    network.head, network.class_names = head.train(old.training), rows.classes


@torch.no_grad()
def join_rows(head: nn.Linear, rows: Sequence[int], weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor) -> None:
    """Puts learnt rows back into a head that was solved anew, and brings the other rows to their scale.

    Scores of separate fits cannot be compared: the new rows are multiplied by a and moved by b, one number each, of the
    least cross-entropy with the learnt rows as they are (convex; a is pulled to 1 where nothing tells it).

    Args:
        head: Solved, (C, d).
        rows: That are learnt, k of C.
        weight: Of the learnt rows, (k, d).
        bias: Of the learnt rows, (k,).
        x: Features of some training images, (n, d).
        labels: Of these, (n,).
    """
    logits = F.linear(x.double(), head.weight.double().cpu(), head.bias.double().cpu())
    kept = torch.zeros(len(head.weight), dtype=torch.bool)
    kept[list(rows)] = True
    logits[:, kept] = F.linear(x.double(), weight.double().cpu(), bias.double().cpu())
    scale, shift = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 0.0))
    optimizer = torch.optim.LBFGS([scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        joined = torch.where(kept, logits, scale * logits + shift)
        total = F.cross_entropy(joined, labels) + 0.01 * ((scale - 1).square() + 0.01 * shift.square())
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    head.weight[~kept] *= scale.item()
    head.bias[~kept] = head.bias[~kept] * scale.item() + shift.item()
    head.weight[kept], head.bias[kept] = weight.to(head.weight), bias.to(head.bias)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
