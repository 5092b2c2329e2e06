"""Similarity by linear prediction: regression R2 and (SV)CCA.

Both compare a node's column space with another's through thin orthonormal bases Q. In-sample they need more images
than dimensions: with rank(X) >= n - 1 any features predict any others perfectly, which is refused, not returned as 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reassembly.similarity.checks import DEAD_VARIANCE, NodeError, centre, check_features

STRIP_NUMBERS = 2**25  # numbers of the two (M, rows, n) strips that are held at a time (256 MiB)


def linear_regression(features: Sequence[Tensor], *, ridge: float = 0.0) -> Tensor:
    """Share of node j's variance that linear regression from node i explains: ``[i, j]`` = R2(i -> j), asymmetric.

    In the partition the row is a block and the column the centre it stands for: how much of the centre's features the
    block's contain.

    Args:
        features: M tensors ``(n, d_m)``, n >= 4.
        ridge: 0 is least squares in-sample (Kornblith et al., arXiv 1905.00414, section 5: |Q^T Y|^2 / |Y|^2) and
            needs n > d + 1. Above 0 it is the ridge as a multiple of the mean squared singular value, and R2 is then
            leave-one-out in closed form (PRESS; a negative one counts as 0), which holds for any n and d.

    Returns:
        ``(M, M)`` float64 in [0, 1].

    Raises:
        NodeError: With ``ridge=0``, a node whose features span n - 1 dimensions.
    """
    num_samples = check_features(features, 4)
    operators, targets = [], []
    for index, x in enumerate(features):
        centred, left, singular = _decompose(x)
        scale = centred.norm()
        targets.append(_GramRows(centred / scale if scale > 0 else centred))
        if ridge == 0:
            _require_samples(index, len(singular), num_samples)
            operators.append(_GramRows(left))
        else:
            penalty = ridge * singular.square().mean() if len(singular) else 1.0
            operators.append(_PressRows(left * (singular / (singular.square() + penalty).sqrt())))
    products = _inner_products(operators, targets)
    if ridge == 0:
        return products.clamp(0.0, 1.0)
    # A leave-one-out mean misses an image by n / (n - 1) of its distance to the mean; a dead target explains nothing.
    dead = torch.tensor([not rows.factor.any() for rows in targets])
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


class _GramRows:
    """Rows of F F^T for a thin factor F with n rows."""

    def __init__(self, factor: Tensor):
        self.factor = factor

    def __call__(self, rows: slice) -> Tensor:
        return self.factor[rows] @ self.factor.T


class _PressRows:
    """Rows of a matrix that has the inner product of A^T A with every symmetric matrix, where A Y = (I - H) Y /
    (1 - h_kk) are leave-one-out residuals of Y, H = 1 1^T / n + F F^T: A^T A = W - H W - W H + H W H, and H W will
    do for W H."""

    def __init__(self, factor: Tensor):
        num_samples = len(factor)
        factor = torch.cat([factor.new_full((num_samples, 1), num_samples**-0.5), factor], dim=1)
        self.weights = (1 - factor.square().sum(dim=1)).pow(-2)
        weighted = self.weights[:, None] * factor
        self.left, self.factor = factor @ (factor.T @ weighted) - 2 * weighted, factor

    def __call__(self, rows: slice) -> Tensor:
        result = self.left[rows] @ self.factor.T
        result[:, rows].diagonal().add_(self.weights[rows])
        return result


def _inner_products(left: Sequence[_GramRows | _PressRows], right: Sequence[_GramRows]) -> Tensor:
    """``[i, j]`` = <A_i, B_j> of (n, n) matrices given by their rows: one matrix product of 2 M strips at a time."""
    factor = right[0].factor
    num_samples = len(factor)
    step = max(1, STRIP_NUMBERS // (2 * len(left) * num_samples))
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=factor.device)
    for start in range(0, num_samples, step):
        rows = slice(start, start + step)
        first, second = (torch.stack([matrix(rows) for matrix in side]).flatten(1) for side in (left, right))
        total += first @ second.T
    return total.cpu()
