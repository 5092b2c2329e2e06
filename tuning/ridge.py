"""The closed-form classifier: ridge regression on one-hot labels with exact leave-one-out predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import UserError

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-2, 9))
"""The default grid of penalties, 0.1 to 10,000; features are standardised, so one grid serves every network."""


@dataclass(frozen=True)
class RidgeFit:
    """A linear classifier on raw features, solved rather than trained.

    Attributes:
        weight: (C, d) float64, acts on raw (not standardised) features.
        bias: (C,) float64.
        ridge: The penalty that won on leave-one-out squared error.
        loo_predictions: (n, C) float64, the score of each sample from a fit on all the others.
        loo_accuracy: Share of samples whose leave-one-out prediction is their label.
        loo_mse: Mean squared error of the leave-one-out predictions against the one-hot labels.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    loo_predictions: Tensor
    loo_accuracy: float
    loo_mse: float

    @torch.no_grad()
    def copy_to(self, head: nn.Linear, *, temperature: float = 1.0) -> None:
        """Writes the solution, times ``temperature``, into a linear layer of the same shape, cast to its dtype."""
        head.weight.copy_(self.weight * temperature)
        head.bias.copy_(self.bias * temperature)


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, (d,) and (d,); a constant column gets the scale 1.

    A column counts as constant where its spread is below what float32 can tell from its mean.
    """
    mean = features.mean(0)
    scale = (features - mean).square().mean(0).sqrt()
    return mean, torch.where(scale <= 1e-7 * mean.abs(), torch.ones_like(scale), scale)


def fit_ridge(features: Tensor, labels: Tensor, num_classes: int, ridges: float | Sequence[float] = RIDGES) -> RidgeFit:
    """Solves min |Y - 1b' - ZW|^2 + ridge |W|^2 for one-hot Y and standardised features Z.

    The intercept b is free, so leaving sample i out is exact with the leverage h_i = 1/n + z_i'(Z'Z + ridge I)^-1 z_i:
    its residual is r_i / (1 - h_i), as from a refit on the other n - 1 samples at the same feature scale. One
    eigendecomposition, of ZZ' where n <= d and of Z'Z otherwise, serves the whole grid; ties go to the larger penalty.

    Args:
        features: (n, d), any floating dtype; computed in float64.
        labels: (n,) class indices.
        num_classes: C; classes without samples are allowed.
        ridges: The penalties to choose from by leave-one-out squared error.

    Raises:
        UserError: Fewer than two samples, labels outside 0..C-1, features that are not finite, a penalty <= 0.
    """
    ridges = [float(ridge) for ridge in (ridges if isinstance(ridges, Sequence) else [ridges])]
    _check(features, labels, num_classes, ridges)
    x = features.detach().double()
    n, d = x.shape
    mean, scale = standardisation(x)
    z = (x - mean) / scale
    targets = nn.functional.one_hot(labels.long(), num_classes).to(z)
    prior = targets.mean(0)
    centred = targets - prior

    if n <= d:  # dual: H = U s/(s+ridge) U',  W = Z'U 1/(s+ridge) U'Y
        eigenvalues, basis = torch.linalg.eigh(z @ z.T)
        lift = z.T @ basis
    else:  # primal: H = ZV 1/(s+ridge) (ZV)',  W = V 1/(s+ridge) (ZV)'Y
        eigenvalues, lift = torch.linalg.eigh(z.T @ z)
        basis = z @ lift
    eigenvalues = eigenvalues.clamp_min(0)
    numerators = eigenvalues if n <= d else torch.ones_like(eigenvalues)
    projected, leverages = basis.T @ centred, basis.square()

    def leave_one_out(ridge: float) -> Tensor:
        gains = numerators / (eigenvalues + ridge)
        residuals = centred - basis @ (gains[:, None] * projected)
        left = (1 - 1 / n - leverages @ gains).clamp_min(1e-12)
        return targets - residuals / left[:, None]

    def error(ridge: float) -> float:
        return (leave_one_out(ridge) - targets).square().mean().item()

    ridge = min(sorted(ridges, reverse=True), key=error)
    predictions = leave_one_out(ridge)
    weight = (lift @ (projected / (eigenvalues + ridge)[:, None])).T / scale
    return RidgeFit(
        weight=weight,
        bias=prior - weight @ mean,
        ridge=ridge,
        loo_predictions=predictions,
        loo_accuracy=(predictions.argmax(1) == labels).double().mean().item(),
        loo_mse=(predictions - targets).square().mean().item(),
    )


def calibrate(scores: Tensor, labels: Tensor) -> float:
    """The factor between 1 and 100 that turns regression scores (n, C) into logits of the least cross-entropy.

    Given leave-one-out scores, it makes the confidence of a ridge head honest; the accuracy stays as it is.
    """
    factors = torch.logspace(0, 2, 81, dtype=torch.float64).tolist()
    return min(factors, key=lambda factor: nn.functional.cross_entropy(factor * scores.double(), labels).item())


def _check(features: Tensor, labels: Tensor, num_classes: int, ridges: list[float]) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"ridge: features of shape {tuple(features.shape)} and labels of shape {tuple(labels.shape)}; "
            "allowed are (n, d) and (n,)"
        )
    if len(features) < 2:
        raise UserError(f"ridge: {len(features)} training image(s); at least 2 are needed to leave one out")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"ridge: labels from {labels.min()} to {labels.max()}; allowed are 0 to {num_classes - 1} "
            f"for {num_classes} classes"
        )
    if not torch.isfinite(features).all():
        raise UserError("ridge: features are not finite; lower the learning rate or check the network's weights")
    if not ridges or min(ridges) <= 0:
        raise UserError(f"ridge: penalties {ridges}; allowed are one or more numbers above 0")
