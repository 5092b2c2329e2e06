"""Which features of a source a clone hands on to the head: those that tell its own classes, and not others.

Gates say which units run. What a source says in the end is read off one vector h of d features by its classifier
W h + b, and in some families, whichever units run, all of h says as much of other classes as of the cloned ones; the
head needs few of its numbers. With m in {0, 1}^d, x images of the cloned classes, y those of other classes that the
source knows, M(.) the logits of the whole source, cos the cosine of logits about their mean, all means by class:

    J(m) = E[1 - cos(W (m h(x)) + b, M(x))] + w relu(E[cos(W (m h(y)) + b, M(y))] - 0.3)

From all features on, the one goes without which J is least, until the module is local: it hands on as much as it can.
Features that go cost no column of the head.

Differs from the paper: there a module is units of its source alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.choice import LEAST_CLONED, MOST_OTHER
from cloning.clone import Clone
from cloning.samples import BATCH_SIZE
from zoo.chain.batches import run_in_batches
from zoo.ridge import to_float64

LEAST_SHARE = 1 / 16
"""Of the features, that are handed on."""

AT_ONCE = 1 / 64
"""Of the features that are left, that go in a step; at least one."""

MOST_ALIKE = 0.3
MARGIN = 0.1
"""Below what counts as local on other classes, and a quarter of it above on cloned ones: on other images than those at
hand similarities are others."""


@torch.no_grad()
def select_features(
    clone: Clone, images: Mapping[str, Tensor], contrast: float, *, precision: torch.dtype | None = None
) -> Clone:
    """The module with as many features as it can hand on and be local.

    Args:
        clone: A module at the image that hands on all of them.
        images: By class of the source, preprocessed for it; classes without images are left out.
        contrast: Weight w of other classes.
        precision: Of the networks' products, as in ``run_in_batches``.

    Returns:
        Itself if it is local with all features, if it is so with no fewer, and if nothing is known of either side.
    """
    images = {name: x for name, x in images.items() if len(x)}
    own = [name in clone.classes for name in images]
    if all(own) or not any(own):
        return clone
    run = partial(run_in_batches, batch_size=BATCH_SIZE, precision=precision)
    source, counts = clone.source, torch.tensor([len(x) for x in images.values()])
    features = torch.cat([run(partial(clone.features, start=0), x) for x in images.values()])
    wanted = torch.cat([run(source.logits, x) for x in images.values()])
    sides = [torch.tensor(own), ~torch.tensor(own)]
    weights = torch.stack([(side / (counts * side.sum())).repeat_interleave(counts) for side in sides])
    selected = local_features(features, wanted, source.weight, source.bias, weights, contrast)
    return clone if selected is None else replace(clone, selected=selected)


def local_features(
    features: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, sides: Tensor, contrast: float
) -> Tensor | None:
    """The features that are left when the module is local.

    Args:
        features: (n, d) of the module.
        wanted: (n, C) logits of the whole source.
        weight: (C, d) of its classifier.
        bias: (C,).
        sides: (2, n) weights of the images: for the mean over cloned classes, and for that over others.
        contrast: Weight w.

    Returns:
        (k,) int64 in order, on the CPU; ``None`` if it is local with all of them, or with no k of ``LEAST_SHARE``.
    """
    h, wanted = to_float64(features), to_float64(wanted)
    weight, bias, sides = (to_float64(part).to(h.device) for part in (weight, bias, sides))
    if len(bias) > 1:
        wanted, weight, bias = wanted - wanted.mean(1, keepdim=True), weight - weight.mean(0), bias - bias.mean()
    size = wanted.norm(dim=1)
    products = h * (wanted @ weight)  # of every feature's part of the logits with what is wanted
    gram, along, constant = weight.T @ weight, weight.T @ bias, bias @ bias
    q, index = h @ gram + along, torch.arange(len(along), device=h.device)  # columns of features that went are cut out
    while True:
        inner, square = products.sum(1) + wanted @ bias, (h * (q + along)).sum(1) + constant
        cloned, other = (sides @ _cosines(inner, square, size)).tolist()
        if cloned >= LEAST_CLONED + MARGIN / 4 and other <= MOST_OTHER - MARGIN:
            return None if len(index) == len(weight[0]) else index.cpu()
        num_gone = max(1, int(AT_ONCE * len(index)))
        if len(index) - num_gone < least_selected(len(weight[0])):
            return None
        squares = square[:, None] + h * (h * gram.diagonal() - 2 * q)
        cloned, other = sides @ _cosines(inner[:, None] - products, squares, size[:, None])
        worth = 1 - cloned + contrast * F.relu(other - MOST_ALIKE)
        order = worth.argsort(stable=True)
        gone, kept = order[:num_gone], order[num_gone:].sort().values
        q = q[:, kept] - h[:, gone] @ gram[gone][:, kept]
        h, products, gram, along, index = h[:, kept], products[:, kept], gram[kept][:, kept], along[kept], index[kept]


def least_selected(num_features: int) -> int:
    """The fewest of so many features that are handed on."""
    return math.ceil(LEAST_SHARE * num_features)


def _cosines(inner: Tensor, square: Tensor, size: Tensor) -> Tensor:
    return inner / (square.clamp_min(1e-24).sqrt() * size).clamp_min(1e-12)
