"""LEEP: how well a network's own classifier tells the labels as it is (Nguyen et al., ICML 2020, arXiv 2002.12462)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from reassembly.proxies.base import Evidence, Proxy
from zoo.ridge import to_float64


def leep_score(probabilities: Tensor, labels: Tensor, num_classes: int) -> float:
    """The mean log-likelihood of the labels under the expected empirical predictor (equations 1 and 2 of the paper).

    With theta(x) the distribution that the network gives an image over its own classes z:

        P(y, z) = 1/n sum_{i: y_i = y} theta(x_i)_z,   P(y | z) = P(y, z) / P(z),
        LEEP = 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z

    Args:
        probabilities: (n, Z), rows that add up to 1; computed in float64.
        labels: (n,) class indices.
        num_classes: C.

    Returns:
        The score in nats per image, at most 0; higher is better.
    """
    theta = to_float64(probabilities)
    joint = one_hot(labels.long(), num_classes).to(theta).T @ theta / len(theta)  # (C, Z)
    conditional = joint / joint.sum(0).clamp_min(torch.finfo(theta.dtype).tiny)
    likelihoods = (theta * conditional[labels]).sum(1)
    return likelihoods.clamp_min(torch.finfo(theta.dtype).tiny).log().mean().item()


def as_probabilities(outputs: Tensor) -> Tensor:
    """Outputs of a classifier (n, Z) as distributions: those that are as they are, logits by softmax."""
    outputs = to_float64(outputs)
    if (outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-3:
        return outputs
    return outputs.softmax(1)


def _score(evidence: Evidence) -> float:
    if evidence.outputs is None:
        return -math.inf
    return leep_score(as_probabilities(evidence.outputs), evidence.labels, evidence.num_classes)


LEEP = Proxy(
    name="leep",
    score=_score,
    cost="one forward pass of the probe images",
    label="LEEP, nats an image",
    needs=frozenset({"outputs"}),
)
