"""Ridge: how well a linear head, solved in closed form, predicts each image from all others."""

from __future__ import annotations

from torch import Tensor

from reassembly.proxies.base import Evidence, Proxy
from tuning.ridge import fit_ridge


def ridge_score(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Leave-one-out accuracy of the ridge head on (n, d) features; its squared error breaks ties.

    The accuracy moves in steps of 1/n; with the mean squared error e, e / (1 + e) / n is subtracted, less than a step.
    """
    fit = fit_ridge(features, labels, num_classes)
    return fit.loo_accuracy - fit.loo_mse / (1 + fit.loo_mse) / len(labels)


def _score(evidence: Evidence) -> float:
    return ridge_score(evidence.features, evidence.labels, evidence.num_classes)


RIDGE = Proxy(
    name="ridge",
    score=_score,
    cost="one forward pass of the probe images and one eigendecomposition of size min(n, d)",
    needs=frozenset({"features"}),
    label="leave-one-out accuracy of a ridge head, %",
    leaves_one_out=True,
)
