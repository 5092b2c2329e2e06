"""Similarity by linear prediction: regression R2 and (SV)CCA.

Both compare a node's column space with another's through thin orthonormal bases Q. In-sample they need more images
than dimensions: with rank(X) >= n - 1 any features predict any others perfectly, which is refused, not returned as 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reassembly.similarity.checks import (
    DEAD_VARIANCE,
    NodeError,
    centre,
    centre_in_units,
    check_features,
    require_samples,
)
from reassembly.similarity.products import gram, spd_inverse

STRIP_NUMBERS = 2**23  # numbers of the two (M, rows, n) strips that are held at a time
LEAST_RIDGE_IN_FLOAT32 = 0.01
"""Below it what float32 loses by the inverse, about 1e-7 / ridge a dimension, would be seen."""
LEAST_LEFT_OUT_IN_FLOAT32 = 0.01
"""Likewise of 1 - h_kk: an image that its own node's prediction leans on that much is an outlier."""


def linear_regression(features: Sequence[Tensor], *, ridge: float = 0.0) -> Tensor:
    """Share of node j's variance that linear regression from node i explains: ``[i, j]`` = R2(i -> j), asymmetric.

    In the partition the row is a block and the column the centre it stands for: how much of the centre's features the
    block's contain.

    A node costs one decomposition or inverse of the smaller of its two Gram matrices, a pair an inner product of two
    (n, n) matrices. With a ridge of 0.01 at least these are float32, less than 1e-4 off what float64 gives.

    Args:
        features: M tensors ``(n, d_m)``, n >= 4.
        ridge: 0 is least squares in-sample (Kornblith et al., arXiv 1905.00414, section 5: |Q^T Y|^2 / |Y|^2) and
            needs n > d + 1. Above 0 it is the ridge as a multiple of the mean of the min(n - 1, d) squared singular
            values, channels that do not vary left out, and R2 is then leave-one-out in closed form (PRESS; a negative
            one counts as 0), which holds for any n and d.

    Returns:
        ``(M, M)`` float64 in [0, 1].

    Raises:
        NodeError: With ``ridge=0``, a node whose features span n - 1 dimensions.
    """
    num_samples = require_samples(features, 4)
    dtype = torch.float32 if ridge >= LEAST_RIDGE_IN_FLOAT32 else torch.float64
    operators, targets = [], []
    for index, x in enumerate(features):
        centred = _normalised(index, x.to(dtype))
        wide = gram(centred) if 2 * centred.shape[1] >= num_samples else None  # no larger than the factors
        if ridge == 0:
            _, left, singular = _decompose(x)
            _require_samples(index, len(singular), num_samples)
            operators.append(_Symmetric(left, left))
        else:
            operators.append(_press(centred, wide, _penalty(centred, ridge)))
        targets.append(_Symmetric(centred, centred) if wide is None else _Symmetric(wide))
    products = _inner_products(operators, targets)
    if ridge == 0:
        return products.clamp(0.0, 1.0)
    # A leave-one-out mean misses an image by n / (n - 1) of its distance to the mean; a dead target explains nothing.
    dead = torch.tensor([not target.left.any() for target in targets])
    return (1 - products * (1 - 1 / num_samples) ** 2).masked_fill(dead, 0.0).clamp(0.0, 1.0)


def svcca(features: Sequence[Tensor], *, explained_variance: float = 0.99) -> Tensor:
    """Mean canonical correlation of the leading principal components.

    Source: SVCCA, Raghu et al., NeurIPS 2017, arXiv 1706.05806.

    Args:
        features: M tensors ``(n, d_m)``, n >= 4.
        explained_variance: Share of each node's variance its kept components explain; 1 keeps all (mean CCA).

    Returns:
        ``(M, M)`` float64 in [0, 1], symmetric; the mean runs over the smaller of the two numbers of components.

    Raises:
        NodeError: A node whose kept components span n - 1 dimensions.
    """
    num_samples = check_features(features, 4)
    bases = []
    for index, x in enumerate(features):
        _, left, singular = _decompose(x)
        if len(singular):
            share = singular.square().cumsum(0) / singular.square().sum()
            rank = min(int((share < explained_variance * (1 - 1e-12)).sum()) + 1, len(singular))
            _require_samples(index, rank, num_samples)
            left = left[:, :rank]
        bases.append(left)
    result = torch.zeros(len(bases), len(bases), dtype=torch.float64)
    for i, first in enumerate(bases):
        for j, second in enumerate(bases[: i + 1]):
            smaller = min(first.shape[1], second.shape[1])
            if smaller:
                product = first.T @ second
                product = product if len(product) == smaller else product.T
                squares = torch.linalg.eigvalsh(product @ product.T).clamp(0.0, 1.0)
                result[i, j] = result[j, i] = squares.sqrt().sum() / smaller
    return result


def _decompose(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred features, their left singular vectors and positive singular values; rank 0 and zeros for a dead node."""
    centred, centred_energy, raw_energy = centre(features)
    if centred_energy <= DEAD_VARIANCE * raw_energy:
        return torch.zeros_like(centred), centred[:, :0], centred.new_zeros(0)
    # By the smaller Gram matrix, several times faster than an SVD. What squaring loses, below 1e-8 of the largest
    # singular value, is noise here: the features carry float32 rounding, as numpy.linalg.matrix_rank has it.
    is_wide = centred.shape[1] > len(centred)
    squares, vectors = torch.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    singular = squares.flip(0).clamp_min(0).sqrt()
    rank = int((singular > singular[0] * max(centred.shape) * torch.finfo(torch.float32).eps).sum())
    singular, vectors = singular[:rank], vectors.flip(1)[:, :rank]
    return centred, vectors if is_wide else centred @ vectors / singular, singular


def _require_samples(index: int, rank: int, num_samples: int) -> None:
    if rank >= num_samples - 1:
        raise NodeError(
            index,
            f"span all {rank} dimensions that {num_samples} probe images can have, so they "
            "would predict anything: raise similarity.num_probe_images or type similarity.measure=linear_cka",
        )


def _normalised(index: int, features: Tensor) -> Tensor:
    """Features minus their mean in units in which their sum of squares is 1; zeros for a dead node."""
    centred, unit, energy, raw_energy = centre_in_units(index, features)
    if energy <= DEAD_VARIANCE * raw_energy:
        return torch.zeros_like(centred)
    return centred.div_(float(energy.sqrt()) / unit)


@dataclass(frozen=True)
class _Symmetric:
    """A symmetric (n, n) matrix L R' + diag(weights), given by L and R of n rows; R is the identity where not given."""

    left: Tensor
    right: Tensor | None = None
    weights: Tensor | None = None

    def float(self) -> _Symmetric:
        """In float32."""
        return _Symmetric(*(part if part is None else part.float() for part in (self.left, self.right, self.weights)))

    def strip(self, start: int, out: Tensor) -> None:
        """Writes as many rows as ``out`` has, from ``start`` on, and of them the columns from ``start`` on."""
        stop = start + len(out)
        if self.right is None:
            out.copy_(self.left[start:stop, start:])
        else:
            torch.mm(self.left[start:stop], self.right[start:].T, out=out)
        if self.weights is not None:
            out.diagonal().add_(self.weights[start:stop])


def _press(centred: Tensor, wide: Tensor | None, penalty: float) -> _Symmetric:
    """Q, for which <Q, Y Y^T> is the sum of squared leave-one-out residuals of any centred Y.

    They are (I - H) Y / (1 - h_kk) with H = 1 1^T / n + T and T = X X^T (X X^T + penalty)^-1, so that Q is
    (I - H) W (I - H) with W = diag (1 - h_kk)^-2, and I - T = penalty (X X^T + penalty)^-1.
    """
    identity = torch.eye(len(centred) if wide is not None else centred.shape[1]).to(centred)
    if wide is not None:
        rest = penalty * spd_inverse(wide + penalty * identity) - 1 / len(centred)
        left_out = rest.diagonal()
    else:
        spread = centred @ spd_inverse(gram(centred.T) + penalty * identity)  # T is its product with X^T
        left_out = 1 - 1 / len(centred) - (spread * centred).sum(1)
    if centred.dtype == torch.float32 and float(left_out.min()) < LEAST_LEFT_OUT_IN_FLOAT32:
        exact = centred.double()  # and not W on its own, which nearly cancels
        return _press(exact, gram(exact), penalty).float()
    weights = left_out.pow(-2)
    if wide is not None:
        return _Symmetric(rest * weights, rest)
    weighted = weights[:, None] * spread
    other = centred @ (spread.T @ weighted / 2) - weighted  # Q = W + X other^T + other X^T
    return _Symmetric(torch.cat([centred, other], 1), torch.cat([other, centred], 1), weights)


def _penalty(centred: Tensor, ridge: float) -> float:
    """The ridge as a multiple of the mean squared singular value; their sum is 1."""
    energies = centred.square().sum(0)
    num_varying = int((energies > DEAD_VARIANCE * energies.sum()).sum())
    return ridge / max(1, min(len(centred) - 1, num_varying))


def _inner_products(left: Sequence[_Symmetric], right: Sequence[_Symmetric]) -> Tensor:
    """``[i, j]`` = <A_i, B_j>, float64: one product of 2 M strips up to the diagonal at a time."""
    like = right[0].left
    num_samples = len(like)
    step = max(1, STRIP_NUMBERS // (2 * len(left) * num_samples))
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=like.device)
    for start in range(0, num_samples, step):
        num_rows = min(step, num_samples - start)
        strips = like.new_empty(2, len(left), num_rows, num_samples - start)
        for side, matrices in zip(strips, (left, right), strict=True):
            for matrix, strip in zip(matrices, side, strict=True):
                matrix.strip(start, strip)
        strips[0, :, :, num_rows:] *= 2  # what lies on the other side of the diagonal
        total += strips[0].flatten(1) @ strips[1].flatten(1).T
    return total.cpu()
