"""What every similarity measure asks of its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DEAD_VARIANCE = 1e-12
"""A node is dead when the variance of its features is below this share of their mean square.

The rounding of float32 features is a share of about 1e-14.
"""


LEAST_ENERGY, MOST_ENERGY = 1e-10, 1e15
"""Sums of squares of features beyond which products of float32 kernel matrices come near float32's ends."""


class NodeError(UserError):
    """Features of one node that a measure cannot take.

    Args:
        index: Of the node among all features.
        fault: What is wrong with them and what to do, as the end of a sentence.
        name: Of the node, for the message.
    """

    def __init__(self, index: int, fault: str, name: str | None = None) -> None:
        super().__init__(f"features of {name or f'node {index}'} {fault}")
        self.index, self.fault = index, fault


def check_features(features: Sequence[Tensor], min_samples: int) -> int:
    """The common number of probe images n of ``features``.

    Raises:
        UserError: Fewer than ``min_samples`` images.
        NodeError: A node's features are not finite.
    """
    num_samples = require_samples(features, min_samples)
    for index, x in enumerate(features):
        if not x.isfinite().all():
            raise not_finite(index)
    return num_samples


def require_samples(features: Sequence[Tensor], min_samples: int) -> int:
    """As ``check_features``, for a measure that looks itself whether features are finite."""
    assert features, "similarity of no nodes"
    num_samples = len(features[0])
    assert all(x.ndim == 2 and len(x) == num_samples for x in features), "features are (n, d_m) on the same n images"
    if num_samples < min_samples:
        raise UserError(
            f"similarity on {num_samples} probe images: this measure needs at least {min_samples}, "
            "type similarity.num_probe_images=512"
        )
    return num_samples


def not_finite(index: int) -> NodeError:
    """What is raised of features that are not finite."""
    return NodeError(index, "hold NaN or infinity: take that network out of the zoo or repair its weights")


def centre(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features as float64 minus their mean over the images, their centred and their raw sum of squares."""
    from zoo.ridge import to_float64  # with torch, which the settings do without

    raw = to_float64(features)
    centred = raw - raw.mean(dim=0)
    return centred, centred.square().sum(), raw.square().sum()


def centre_in_units(index: int, x: Tensor) -> tuple[Tensor, float, Tensor, Tensor]:
    """Features (n, d) of a node minus their mean, in their own dtype, in units of a power of two that keep products
    within float32; that unit, and the centred and the raw sum of squares, float64.

    Raises:
        NodeError: The features are not finite.
    """
    unit = 1.0
    centred, mean, energy = _minus_mean(x)
    if not LEAST_ENERGY < float(energy) < MOST_ENERGY:
        if not x.isfinite().all():
            raise not_finite(index)
        if largest := float(centred.abs().max() if centred.isfinite().all() else x.abs().max()):
            unit = 2.0 ** math.frexp(largest)[1]
            centred, mean, energy = _minus_mean(x / unit)
    raw_energy = energy + len(x) * mean.double().square().sum()
    return centred, unit, energy * unit**2, raw_energy * unit**2


def _minus_mean(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features without their mean, that mean (1, d), and the sum of squares that is left, float64."""
    shares = x.new_full((1, len(x)), 1 / len(x))
    mean = shares @ x
    centred = x - mean
    flat = centred.view(-1)
    missed = shares @ centred  # of the mean, by rounding: it would hide that features do not vary
    return centred, mean, (flat @ flat).double() - len(x) * missed.double().square().sum()
