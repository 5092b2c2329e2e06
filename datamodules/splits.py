"""Which image belongs to which split, fixed by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.records import neighbours


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """An order of the images in which every consecutive slice holds the classes in their shares of the whole.

    The images are shuffled; each then gets its relative rank inside its class, and the ranks are sorted. Splits are
    consecutive slices of the order, and the first images of a split stand for the split.

    Args:
        labels: int64 (n,).
        seed: Fixes the shuffle.

    Returns:
        int64 permutation (n,).
    """
    shuffle = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[shuffle]
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (shuffled == label).nonzero().flatten()
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffle[rank.argsort(stable=True)]


def cut(order: Tensor, sizes: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Consecutive slices of an order.

    Args:
        order: int64 (n,).
        sizes: Number of images per configuration key (`num_train`); None takes what the others leave, once.

    Raises:
        UserError: A size below 1, more images than there are, or nothing left for None.
    """
    rest = len(order) - sum(size for size in sizes.values() if size is not None)
    for key, size in sizes.items():
        if size is not None and size < 1:
            raise UserError(f"dataset.{key}={size}: expected at least 1 image")
        if size is None and rest < 1:
            given = " ".join(f"dataset.{other}={size}" for other, size in sizes.items() if size is not None)
            raise UserError(f"{given} leave none of {len(order)} images for dataset.{key}; lower one of them")
    if rest < 0:
        given = " ".join(f"dataset.{key}={size}" for key, size in sizes.items() if size is not None)
        raise UserError(f"{given}: the data has {len(order)} images for these; lower one of them by {-rest}")
    chosen = [rest if size is None else size for size in sizes.values()]
    parts = order[: sum(chosen)].split(chosen)
    return dict(zip(sizes, parts, strict=True))


def select_classes(labels: Tensor, known: Mapping[int, str], wanted: Sequence[str]) -> Tensor:
    """Labels that count the wanted classes in their order, and -1 for all others.

    Args:
        labels: int64 (n,).
        known: Names of the classes by label.
        wanted: Names of at least two classes.

    Raises:
        UserError: A class that does not exist or is named twice, or fewer than two.
    """
    unknown = [name for name in wanted if name not in known.values()]
    if unknown:
        raise UserError(f"dataset.classes: unknown class {unknown[0]!r}: {neighbours(unknown[0], known.values())}")
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise UserError(f"dataset.classes={list(wanted)}: expected at least two classes, each once")
    selected = torch.full_like(labels, -1)
    for label, name in known.items():
        if name in wanted:
            selected[labels == label] = wanted.index(name)
    return selected
