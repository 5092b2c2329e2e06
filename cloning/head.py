"""F_c solved rather than trained: class-balanced logistic regression anchored at the closed-form initialisation.

With a teacher half of what it is solved for is what the teacher says (Hinton et al. 2015, arXiv 1503.02531). Without
any sample of the target's classes to solve it on, the blocks of the initialisation are calibrated instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tuning.losses import distillation
from zoo.errors import UserError
from zoo.ridge import column_scales, to_float64

PENALTY = 0.03
TAUGHT_PENALTY = 3e-4
"""The same where there is a teacher, which says more of an image than a label does."""
TEACHER_WEIGHT = 0.5
"""Share of the loss that is the teacher's."""
DISTILLATION_TEMPERATURE = 2.0
_MAX_ITERATIONS = 300
_HISTORY_SIZE = 20
SCALE_PENALTY = 1e-4
LEAST_GRADIENT = 1e-6
"""Per entry, in the scale of the curvature, at which a head counts as solved."""
NEARLY_SOLVED = 1e-4
"""The same where heads are only compared or learnt from: losses are within a hundredth of those of the solved ones."""


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """One weight per sample (n,), float64: every class that occurs weighs the same, and all sum to 1."""
    counts = to_float64(torch.bincount(labels, minlength=num_classes))
    return 1 / (counts[labels.to(counts.device)] * (counts > 0).sum())


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy summed with the weights of ``class_weights``."""
    return (weights.to(logits) * F.cross_entropy(logits, labels, reduction="none")).sum()


@torch.enable_grad()
def solve_head(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    teacher: Tensor | None = None,
    penalty: float | None = None,
    least_gradient: float = LEAST_GRADIENT,
) -> tuple[Tensor, Tensor]:
    """The head near (W_0, b_0) that separates a few samples, by a convex problem with one solution.

        min_(W, b)  sum_i w_i CE(W f_i + b, y_i)  +  penalty |(W - W_0) S|^2

    and with a teacher's logits t_i

        min_(W, b)  sum_i w_i [CE(W f_i + b, y_i) + T^2 KL(softmax(t_i / T) || softmax((W f_i + b) / T))] / 2  +  ...

    The iterations (L-BFGS) go in the scale of a bound on the curvature, so that there are few of them.

    w weighs all classes the same, S holds the standard deviations of the features (in the same weighting). The pull
    towards the old head is what a handful of samples per class needs: without it, a new class with many samples takes
    over the old ones.

    Args:
        features: (n, d).
        labels: (n,) rows of the head.
        weight: (C, d), W_0.
        bias: (C,), b_0; not penalised.
        teacher: (n, C) logits, t, without gradient.
        penalty: Above 0; that of the module if not given.
        least_gradient: At which the iterations end; see ``LEAST_GRADIENT``.

    Returns:
        (C, d) and (C,) in the dtype of ``weight``, where the features are.

    Raises:
        UserError: No samples, or features that are not finite.
    """
    if not len(labels):
        raise UserError("the head cannot be solved without samples; raise correction.fraction or correction.exemplars")
    if not torch.isfinite(features).all():
        raise UserError("features are not finite; check the weights of target and sources")
    if penalty is None:
        penalty = PENALTY if teacher is None else TAUGHT_PENALTY
    weights = class_weights(labels, len(weight))
    x = to_float64(features.detach())
    labels = labels.to(x.device)
    mean = weights @ x
    scale = (weights @ (x - mean).square()).sqrt()
    scale = column_scales(scale, scale <= 1e-7 * mean.abs())  # a constant feature keeps its weights
    z = (x - mean) / scale
    old_weight, old_bias = (to_float64(part.detach()).to(x) for part in (weight, bias))
    anchor = old_weight * scale
    intercept = (old_bias + old_weight @ mean).requires_grad_()
    rotation = torch.linalg.qr(z.T).Q if z.shape[1] > len(z) else None  # the solution is in the span of the samples
    rows = z if rotation is None else z @ rotation
    curvature = (rows * weights[:, None]).T @ rows / 2  # of the cross-entropy, at most (Boehning 1992)
    curvature.diagonal().add_(2 * penalty)
    identity = torch.eye(len(curvature)).to(curvature)
    scaling = torch.linalg.solve_triangular(torch.linalg.cholesky(curvature), identity, upper=False)
    scaled, offset = rows @ scaling.T, z @ anchor.T
    change = torch.zeros(len(weight), len(scaling)).to(scaled).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [change, intercept],
        max_iter=_MAX_ITERATIONS,
        history_size=_HISTORY_SIZE,
        line_search_fn="strong_wolfe",
        tolerance_grad=least_gradient,
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = offset + scaled @ change.T + intercept
        fit = balanced_cross_entropy(logits, labels, weights)
        if teacher is not None:  # of the same curvature at most
            taught = distillation(logits, to_float64(teacher), temperature=DISTILLATION_TEMPERATURE, weights=weights)
            fit = (1 - TEACHER_WEIGHT) * fit + TEACHER_WEIGHT * taught
        total = fit + penalty * (change @ scaling).square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    step = change.detach() @ scaling
    solved = (anchor + (step if rotation is None else step @ rotation.T)) / scale
    solved = (solved, intercept.detach() - solved @ mean)
    return tuple(part.to(weight.dtype).to(features.device) for part in solved)


@torch.enable_grad()
def calibrate(logits: Tensor, labels: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and offset of each network's logits with which they compare best: two numbers a network.

    They minimise the class-balanced cross-entropy, with a slight pull of the scales towards 1.

    Args:
        logits: (n, C).
        labels: (n,) in 0 .. C - 1.
        owners: (C,) which network a class is of, 0 .. P.

    Returns:
        Scales above 0 and offsets, (C,) float64, those of the same network the same.
    """
    logits = to_float64(logits.detach())
    labels, owners = labels.to(logits.device), owners.to(logits.device)
    weights = class_weights(labels, logits.shape[1])
    scales, offsets = (torch.zeros(int(owners.max()) + 1).to(logits).requires_grad_() for _ in range(2))
    optimizer = torch.optim.LBFGS([scales, offsets], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = balanced_cross_entropy(logits * scales.exp()[owners] + offsets[owners], labels, weights)
        total = total + SCALE_PENALTY * scales.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return scales.exp()[owners].detach(), offsets[owners].detach()


def calibrated_head(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, owners: Tensor
) -> tuple[Tensor, Tensor]:
    """A head (C, d) and (C,) whose rows compare best, network by network, on labelled features (n, d).

    Scales and offsets are against those of the network of owner 0, whose rows stay as they are: so the answers are the
    same, and what heads of several clones have learnt can be added.
    """
    scale, offset = calibrate(features.to(weight) @ weight.T + bias, labels, owners)
    own = (owners == 0).to(scale.device)
    if own.any():
        scale, offset = scale / scale[own][0], (offset - offset[own][0]) / scale[own][0]
    scale, offset = scale.to(weight), offset.to(weight)
    return weight * scale[:, None], bias * scale + offset


def calibrated_logits(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, owners: Tensor) -> Tensor:
    """The logits (n, C) of a head on labelled features (n, d), calibrated there."""
    logits = features @ weight.to(features).T + bias.to(features)
    scale, offset = (part.to(logits) for part in calibrate(logits, labels, owners))
    return logits * scale + offset
