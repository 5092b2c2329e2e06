"""The closed-form classifier: ridge regression on one-hot labels with exact leave-one-out predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.chain.batches import Rows, batches_of
from zoo.errors import UserError
from zoo.ridge import Moments, column_scales, to_float64

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-2, 9))
"""The default grid of penalties, 0.1 to 10,000; features are standardised, so one grid serves every network."""

_ROWS = 4096  # of features in memory that are computed with at once


class NotFiniteError(UserError):
    """Features that hold NaN or infinity."""


@dataclass(frozen=True)
class RidgeFit:
    """A linear classifier on raw features, solved rather than trained.

    Attributes:
        weight: (C, d) float64, acts on raw (not standardised) features.
        bias: (C,) float64.
        ridge: The penalty that won on leave-one-out squared error.
        loo_accuracy: Share of samples whose leave-one-out prediction is their label.
        loo_mse: Mean squared error of the leave-one-out predictions against the one-hot labels.
        path: What the leave-one-out predictions are made of.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    loo_accuracy: float
    loo_mse: float
    path: RidgePath

    @torch.no_grad()
    def copy_to(self, head: nn.Linear, *, temperature: float = 1.0) -> None:
        """Writes the solution, times ``temperature``, into a linear layer of the same shape, cast to its dtype."""
        head.weight.copy_(self.weight * temperature)
        head.bias.copy_(self.bias * temperature)

    def leave_one_out(self, features: Rows, labels: Tensor) -> Iterator[Tensor]:
        """The scores (b, C) float64 of each sample from a fit on all the others, batch by batch.

        Args:
            features: Those that were fitted.
            labels: Theirs.
        """
        for batch, own in _with_labels(features, labels):
            (scores,) = self.path.leave_one_out(batch, own, [self.ridge])
            yield scores


def leave_one_out_loss(fit: RidgeFit, features: Rows, labels: Tensor, temperature: float) -> float:
    """Mean cross-entropy of the leave-one-out predictions of a fit, times ``temperature``, on what it was fitted to."""
    total, start = 0.0, 0
    for scores in fit.leave_one_out(features, labels):
        own = labels[start : start + len(scores)].to(scores.device)
        total += float(nn.functional.cross_entropy(temperature * scores, own, reduction="sum"))
        start += len(scores)
    return total / len(labels)


@dataclass(frozen=True)
class RidgePath:
    """The solutions of all penalties, in the basis in which they are diagonal.

    Attributes:
        num_rows: n.
        mean: (d,) of the features.
        scale: (d,) their standard deviation, see ``column_scales``; 1 for a constant column, which is one whose spread
            is below what float32 can tell from its mean.
        prior: (C,) shares of the classes.
        basis: (d, k) eigenvectors of Z'Z for the standardised features Z; k <= min(n, d).
        eigenvalues: (k,).
        projected: (k, C) basis' Z'Y.
    """

    num_rows: int
    mean: Tensor
    scale: Tensor
    prior: Tensor
    basis: Tensor
    eigenvalues: Tensor
    projected: Tensor

    @classmethod
    def of(cls, moments: Moments, rows: Tensor | None) -> RidgePath:
        """Out of the moments of features and one-hot labels; of fewer rows than columns out of the rows (n, d)."""
        deviation = moments.deviation()
        scale = column_scales(deviation, deviation <= 1e-7 * moments.x.abs())
        if rows is None:
            eigenvalues, basis = torch.linalg.eigh(moments.xx / torch.outer(scale, scale))
            eigenvalues = eigenvalues.clamp_min(0)
        else:
            z = (rows - moments.x) / scale
            eigenvalues, vectors = torch.linalg.eigh(z @ z.T)
            kept = eigenvalues > torch.finfo(z.dtype).eps * len(z) * eigenvalues.max()
            eigenvalues, basis = eigenvalues[kept], z.T @ (vectors[:, kept] / eigenvalues[kept].sqrt())
        projected = basis.T @ (moments.xy / scale[:, None])
        return cls(int(moments.count), moments.x, scale, moments.y, basis, eigenvalues, projected)

    def solution(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Weight (C, d) and bias (C,) on raw features."""
        weight = (self.basis @ (self.projected / (self.eigenvalues + ridge)[:, None])).T / self.scale
        return weight, self.prior - weight @ self.mean

    def leave_one_out(self, features: Tensor, labels: Tensor, ridges: Sequence[float]) -> Iterator[Tensor]:
        """For every penalty the predictions (b, C) of some of the samples, each without its own share."""
        targets = nn.functional.one_hot(labels, len(self.prior)).to(self.mean)
        rows = ((features.to(self.mean) - self.mean) / self.scale) @ self.basis
        leverages = rows.square()
        for ridge in ridges:
            gains = 1 / (self.eigenvalues + ridge)
            residuals = targets - self.prior - rows @ (gains[:, None] * self.projected)
            left = (1 - 1 / self.num_rows - leverages @ gains).clamp_min(1e-12)
            yield targets - residuals / left[:, None]


def fit_ridge(features: Rows, labels: Tensor, num_classes: int, ridges: float | Sequence[float] = RIDGES) -> RidgeFit:
    """Solves min |Y - 1b' - ZW|^2 + ridge |W|^2 for one-hot Y and standardised features Z.

    The intercept b is free, so leaving sample i out is exact with the leverage h_i = 1/n + z_i'(Z'Z + ridge I)^-1 z_i:
    its residual is r_i / (1 - h_i), as from a refit on the other n - 1 samples at the same feature scale. One
    eigendecomposition, of ZZ' where n <= d and of Z'Z otherwise, serves the whole grid; ties go to the larger penalty.

    Features that come in batches are gone through twice: for their moments, and for the residuals. Memory is
    O(d^2 + dC) however many there are, and the solution is that of the same features in memory up to rounding.

    Args:
        features: (n, d), any floating dtype, in memory or in batches; computed in float64.
        labels: (n,) class indices.
        num_classes: C; classes without samples are allowed.
        ridges: The penalties to choose from by leave-one-out squared error.

    Raises:
        UserError: Fewer than two samples, labels outside 0..C-1, features that are not finite, a penalty <= 0.
    """
    ridges = sorted((float(r) for r in (ridges if isinstance(ridges, Sequence) else [ridges])), reverse=True)
    labels = labels.long()
    _check(features, labels, num_classes, ridges)
    moments, rows = None, []
    for batch, own in _with_labels(features, labels):
        x = batch.detach()
        if not torch.isfinite(x).all():
            raise NotFiniteError(
                "ridge: features are not finite; lower the learning rate or check the network's weights"
            )
        moments = moments or Moments.zeros(x.shape[1], num_classes, x.device)
        moments.add(x, nn.functional.one_hot(own, num_classes).to(x))
        if len(labels) <= x.shape[1]:
            rows.append(x)
    if moments.count != len(labels):
        raise ValueError(f"{len(labels)} labels for {moments.count} rows of features")
    path = RidgePath.of(moments, torch.cat(rows) if rows else None)

    errors, hits = torch.zeros(len(ridges), dtype=torch.float64), torch.zeros(len(ridges), dtype=torch.int64)
    for batch, own in _with_labels(features, labels):
        targets = nn.functional.one_hot(own, num_classes)
        for index, scores in enumerate(path.leave_one_out(batch.detach(), own, ridges)):
            errors[index] += (scores - targets).square().sum().cpu()
            hits[index] += (scores.argmax(1) == own).sum().cpu()
    best = int(errors.argmin())
    count = len(labels)
    weight, bias = path.solution(ridges[best])
    accuracy, error = int(hits[best]) / count, float(errors[best]) / (count * num_classes)
    return RidgeFit(weight, bias, ridges[best], accuracy, error, path)


def calibrate(scores: Tensor | Iterable[Tensor], labels: Tensor) -> float:
    """The factor between 1 and 100 that turns regression scores (n, C) into logits of the least cross-entropy.

    Given leave-one-out scores, all at once or in batches, it makes the confidence of a ridge head honest; the accuracy
    stays as it is. n images without a mistake tell of a chance of 1 / (n + 2) to be wrong, not of none: the labels
    count as 1 - 1 / (n + 2), the rest goes to the other classes alike (Platt 1999, for C classes). So few images never
    make for a confidence without bounds, and many leave the factor what it would be.
    """
    factors = torch.logspace(0, 2, 81, dtype=torch.float64).tolist()
    losses, start = [0.0] * len(factors), 0
    for part in [scores] if isinstance(scores, Tensor) else scores:
        part = to_float64(part)
        own = labels[start : start + len(part)].to(part.device)
        start += len(part)
        num_classes = part.shape[1]
        smoothing = num_classes / max(num_classes - 1, 1) / (len(labels) + 2)  # torch's goes to all classes
        for index, factor in enumerate(factors):
            loss = nn.functional.cross_entropy(factor * part, own, reduction="sum", label_smoothing=smoothing)
            losses[index] += float(loss)
    return factors[min(range(len(factors)), key=losses.__getitem__)]


def _with_labels(features: Rows, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for batch in batches_of(features, _ROWS):
        batch = to_float64(batch)
        yield batch, labels[start : start + len(batch)].to(batch.device)
        start += len(batch)


def _check(features: Rows, labels: Tensor, num_classes: int, ridges: list[float]) -> None:
    shape = tuple(features.shape) if isinstance(features, Tensor) else (len(features), "d")
    if len(shape) != 2 or labels.shape != shape[:1]:
        raise UserError(
            f"ridge: features of shape {shape} and labels of shape {tuple(labels.shape)}; allowed are (n, d) and (n,)"
        )
    if len(features) < 2:
        raise UserError(f"ridge: {len(features)} training image(s); at least 2 are needed to leave one out")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"ridge: labels from {labels.min()} to {labels.max()}; allowed are 0 to {num_classes - 1} "
            f"for {num_classes} classes"
        )
    if not ridges or min(ridges) <= 0:
        raise UserError(f"ridge: penalties {ridges}; allowed are one or more numbers above 0")
