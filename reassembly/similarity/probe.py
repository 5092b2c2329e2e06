"""Similarity by what linear probes make of the task: how near the answers are that two nodes' features allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reassembly.similarity.checks import DEAD_VARIANCE, centre, check_features
from zoo.errors import UserError

RIDGES = tuple(10.0**e for e in range(-3, 3))
"""Of a probe, as multiples of the mean squared singular value."""
TEMPERATURES = tuple(2.0**e for e in range(-8, 3))
BATCH_NODES = 64


def probe_kl(features: Sequence[Tensor], *, labels: Tensor) -> Tensor:
    """exp(-KL), KL the mean over the probe images of KL(p_i | p_j) between the answers of two nodes' probes.

    A node's probe is ridge regression of its features onto the classes in closed form. Its answers are leave-one-out,
    so that no image answers for itself, and calibrated: softmax with the temperature, and the ridge, of least
    leave-one-out cross-entropy. Nothing is run for it: memory is M n C numbers, and time one product of matrices.

    Args:
        features: M tensors ``(n, d_m)``, n >= 4.
        labels: ``(n,)`` int64 classes of the probe images, two different ones at least.

    Returns:
        ``(M, M)`` float64 in [0, 1], asymmetric: the row answers as it does, the column stands for it; 1 on the
        diagonal. ``divergences`` gives KL back.

    Raises:
        UserError: Probe images of one class alone.
    """
    num_samples = check_features(features, 4)
    classes, indices = labels.unique(return_inverse=True)
    if len(labels) != num_samples or len(classes) < 2:
        raise UserError(
            f"similarity=probe_kl: the {num_samples} probe images are of {len(classes)} class: it compares what nodes "
            "tell of classes; type similarity.num_probe_images=512, or similarity=linear_cka"
        )
    logs = torch.stack([_answers(x, indices, len(classes)) for x in features])
    logs = logs.flatten(1)
    entropy = torch.tensor([(row.double().exp() * row.double()).sum() for row in logs], dtype=torch.float64)
    cross = torch.cat([rows.exp() @ logs.T for rows in logs.split(BATCH_NODES)]).double()
    found = (-((entropy[:, None] - cross) / num_samples).clamp_min(0)).exp()
    found.fill_diagonal_(1.0)
    dead = torch.tensor([_is_dead(x) for x in features])
    return found.masked_fill(dead[:, None] | dead, 0.0)


def divergences(similarity: Tensor) -> Tensor:
    """Mean KL of every two nodes, in nats; infinite of a dead one."""
    return -similarity.log()


def _answers(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(n, C) float32 log probabilities, leave-one-out."""
    centred, _, _ = centre(features)
    onehot = F.one_hot(labels, num_classes).double()
    mean = onehot.mean(0)
    left, singular = _left_singular(centred)
    best, least = torch.empty(0), torch.inf
    for ridge in RIDGES:
        penalty = ridge * float(singular.square().mean()) if len(singular) else 1.0
        shrunk = left * (singular.square() / (singular.square() + penalty))
        leverage = (shrunk * left).sum(1) + 1 / len(labels)
        residual = (onehot - mean - shrunk @ (left.T @ (onehot - mean))) / (1 - leverage).clamp_min(1e-6)[:, None]
        held_out = onehot - residual
        for temperature in TEMPERATURES:
            logs = F.log_softmax(held_out / temperature, 1)
            loss = float(F.nll_loss(logs, labels))
            if loss < least:
                best, least = logs, loss
    return best.float()


def _left_singular(x: Tensor) -> tuple[Tensor, Tensor]:
    """U (n, r) and s (r,) of x = U s V' by the smaller Gram matrix, without what is rounding."""
    is_wide = x.shape[1] > x.shape[0]
    values, vectors = torch.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    kept = values > 1e-10 * values.max().clamp_min(1e-30)
    singular = values[kept].sqrt()
    return (vectors[:, kept] if is_wide else x @ (vectors[:, kept] / singular)), singular


def _is_dead(x: Tensor) -> bool:
    _, variance, square = centre(x)
    return bool(variance <= DEAD_VARIANCE * square)
