"""LogME: the evidence of a Bayesian linear model of the labels (You et al., ICML 2021, arXiv 2102.11005)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from reassembly.proxies.base import Evidence, Proxy
from zoo.ridge import to_float64

MAX_ITERATIONS = 200
TOLERANCE = 1e-6


def logme_score(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Maximised log evidence per image, averaged over the one-vs-rest targets (equations 2-4 of the paper).

    For targets y = F w + noise with prior precision alpha and noise precision beta, the fixed point
    ``gamma = sum s / (s + alpha/beta)``, ``alpha = gamma / |m|^2``, ``beta = (n - gamma) / |F m - y|^2``
    is iterated for all classes at once, over the squared singular values s of F, until the evidence stands still.

    Args:
        features: (n, d), any floating dtype; computed in float64, neither centred nor scaled.
        labels: (n,) class indices.
        num_classes: C.

    Returns:
        The score; higher is better. It has the unit of nats per image and no fixed range.
    """
    f = to_float64(features)
    n, d = f.shape
    targets = one_hot(labels.long(), num_classes).to(f)  # (n, C)
    if n <= d:
        eigenvalues, basis = torch.linalg.eigh(f @ f.T)
        projected = basis.T @ targets
    else:
        eigenvalues, lift = torch.linalg.eigh(f.T @ f)
        projected = (lift.T @ (f.T @ targets)) / eigenvalues.clamp_min(1e-300).sqrt()[:, None]
    present = eigenvalues > eigenvalues[-1] * 1e-12 * max(n, d)  # eigh resolves no smaller ones
    s = eigenvalues[present][:, None]
    z2 = projected[present].square()  # (r, C): squared coordinates of the targets along the singular vectors
    outside = (targets.square().sum(0) - z2.sum(0)).clamp_min(0)  # (C,): what no linear model can fit

    alpha = torch.ones_like(outside)
    beta = torch.ones_like(outside)
    previous = torch.full_like(outside, -torch.inf)
    for _ in range(MAX_ITERATIONS):
        ratio = alpha / beta
        gamma = (s / (s + ratio)).sum(0)
        weights = (s * z2 / (s + ratio).square()).sum(0)  # |m|^2
        residuals = (z2 * (ratio / (s + ratio)).square()).sum(0) + outside  # |F m - y|^2
        evidence = _log_evidence(alpha, beta, s, weights, residuals, n, d)
        if (evidence - previous).abs().max() < TOLERANCE * n:
            break
        previous = evidence
        alpha = (gamma / weights.clamp_min(1e-12)).clamp_min(1e-12)
        beta = (n - gamma).clamp_min(1e-12) / residuals.clamp_min(1e-12)
    return (evidence / n).mean().item()


def _log_evidence(alpha: Tensor, beta: Tensor, s: Tensor, weights: Tensor, residuals: Tensor, n: int, d: int) -> Tensor:
    log_det = torch.log(alpha + beta * s).sum(0) + (d - len(s)) * alpha.log()
    fit = n * beta.log() + d * alpha.log() - n * torch.log(torch.tensor(2 * torch.pi)) - log_det
    return 0.5 * (fit - beta * residuals - alpha * weights)


def _score(evidence: Evidence) -> float:
    return logme_score(evidence.features, evidence.labels, evidence.num_classes)


LOGME = Proxy(
    name="logme",
    score=_score,
    cost="one forward pass of the probe images and one eigendecomposition of size min(n, d)",
    needs=frozenset({"features"}),
    label="LogME: log evidence of a linear head, per image and class",
)
