"""Which image belongs to which split, fixed by a seed."""

from __future__ import annotations

import torch
from torch import Tensor


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
