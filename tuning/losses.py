"""The losses of tuning: cross-entropy, distillation, and logits of a head that is solved, not trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.ridge import RidgeFit, fit_ridge


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum over the samples (not the mean: shares of a batch on several devices may differ in size).

    Args:
        logits: (N, C).
        targets: Class indices (N,) or probabilities (N, C), as Mixup makes them.
    """
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")


def distillation(
    logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Sum over the samples of T^2 KL(softmax(t / T) || softmax(z / T)) (Hinton et al., arXiv 1503.02531).

    T^2 keeps the size of the gradient whatever the temperature, next to that of cross-entropy.

    Args:
        logits: z, (N, C).
        teacher_logits: t, (N, C), without gradient.
        temperature: T.
        weights: Of the samples, (N,); all 1 if not given.
    """
    targets = F.log_softmax(teacher_logits.to(logits) / temperature, dim=1)
    outputs = F.log_softmax(logits / temperature, dim=1)
    divergence = F.kl_div(outputs, targets, log_target=True, reduction="none")
    if weights is not None:
        divergence = weights.to(logits)[:, None] * divergence
    return temperature**2 * divergence.sum()


class LeaveOneOutHead(nn.Module):
    """What ridge regression says of each training image, fitted to all the others: logits with no trained weight.

    The head is solved inside the loss (variable projection), so it never falls out of step with the body, and an
    interpolated training set still has errors to learn from. A bank keeps the pooled features of all n training
    images, standardised as they were at the start; a step recomputes the rows of its batch with gradient. Everything
    is float64; one step costs O(n d min(n, d)).

    Attributes:
        bank: (n, d) float64, the latest standardised features.
    """

    def __init__(self, features: Tensor, labels: Tensor, fit: RidgeFit, temperature: float) -> None:
        """Starts from the features (n, d) of the start, their labels (n,), and the closed-form head solved on them."""
        super().__init__()
        mean, scale = fit.path.mean, fit.path.scale
        self.ridge, self.temperature = fit.ridge, temperature
        self.num_classes = len(fit.bias)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        self.register_buffer("labels", labels.long().clone())  # its own: the caller's are not ours to change
        self.register_buffer("bank", (features.detach().double() - mean) / scale)

    def forward(self, features: Tensor, index: Tensor) -> Tensor:
        """Logits (b, C), float64, of a batch, each from the other n - 1 images; its rows of the bank are overwritten.

        Args:
            features: (b, d) with gradient, of the training images ``index``.
            index: (b,) distinct rows of the bank.
        """
        rows = (features.double() - self.mean) / self.scale
        bank = self.bank.index_copy(0, index, rows)
        self.bank.copy_(bank.detach())
        residuals = leave_one_out_residuals(bank, self.labels, index, self.num_classes, self.ridge)
        targets = F.one_hot(self.labels[index], self.num_classes)
        return self.temperature * (targets - residuals)

    @torch.no_grad()
    def refresh(self, features: Tensor) -> None:
        """Replaces the whole bank by features (n, d) of one moment."""
        self.bank.copy_((features.to(self.bank) - self.mean) / self.scale)

    @torch.no_grad()
    def solve(self, features: Tensor, head: nn.Linear) -> None:
        """Writes into ``head`` what fits the features (n, d) of all training images; the bank stays as it is."""
        fit = fit_ridge(features.cpu(), self.labels.cpu(), self.num_classes, self.ridge)
        fit.copy_to(head, temperature=self.temperature)


def leave_one_out_residuals(features: Tensor, labels: Tensor, index: Tensor, num_classes: int, ridge: float) -> Tensor:
    """Label minus leave-one-out ridge prediction, differentiable in the features.

    With Z the centred features and Y the centred one-hot labels: for n <= d, r = (GY)_i / (G_ii - 1/(n ridge)) where
    G = (ZZ' + ridge I)^-1; else r = (Y - ZMZ'Y)_i / (1 - 1/n - z_i'Mz_i) where M = (Z'Z + ridge I)^-1.

    Args:
        features: (n, d) float64, standardised.
        labels: (n,) class indices.
        index: (b,) the samples wanted.

    Returns:
        (b, num_classes) float64.
    """
    n, d = features.shape
    z = features - features.mean(0)
    y = F.one_hot(labels, num_classes).to(z)
    y = y - y.mean(0)
    identity = torch.eye(min(n, d), dtype=z.dtype, device=z.device)
    if n <= d:
        factor = torch.linalg.cholesky(z @ z.T + ridge * identity)
        columns = torch.cholesky_solve(identity[:, index], factor)
        own = columns[index].diagonal() - 1 / (n * ridge)
        return columns.T @ y / own[:, None]
    factor = torch.linalg.cholesky(z.T @ z + ridge * identity)
    rows = z[index]
    solved = torch.cholesky_solve(rows.T, factor)
    left = 1 - 1 / n - (rows * solved.T).sum(1)
    return (y[index] - solved.T @ (z.T @ y)) / left[:, None]
