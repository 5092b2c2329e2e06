"""N-LEEP: LEEP with clusters of the features in the place of a classifier's classes (Li et al., CVPR 2021)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from reassembly.proxies.base import Evidence, Proxy
from reassembly.proxies.leep import leep_score
from zoo.ridge import to_float64

ENERGY = 0.8
"""Share of the features' variance that their principal components keep."""

COMPONENTS_PER_CLASS = 5
MIN_IMAGES_PER_COMPONENT = 5


def nleep_score(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> float:
    """LEEP of the posterior of a Gaussian mixture fitted to the principal components of the features.

    Any network has features, so this asks for no classifier of its own (arXiv 2011.11200, section 3).

    Differs from the paper: features are divided by one number, their overall spread, so that the mixture's
    regularisation is the same for every network; and where five components a class would leave a component fewer than
    five images, there are fewer of them: single images as clusters would explain any labels.

    Args:
        features: (n, d), any floating dtype; computed in float64.
        labels: (n,) class indices.
        num_classes: C.
        seed: Of the mixture's start.

    Returns:
        The score in nats per image, at most 0; higher is better.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    reduced = principal_components(features, ENERGY).cpu().numpy()
    count = max(1, min(COMPONENTS_PER_CLASS * num_classes, len(reduced) // MIN_IMAGES_PER_COMPONENT))
    count = min(count, len(np.unique(reduced, axis=0)))
    mixture = GaussianMixture(count, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that is nearly fitted scores nearly the same
        posterior = mixture.fit(reduced).predict_proba(reduced)
    return leep_score(torch.from_numpy(posterior), labels, num_classes)


def principal_components(features: Tensor, energy: float) -> Tensor:
    """Coordinates (n, r) float64 along the fewest directions that keep a share of the variance, over all unit spread.

    Constant features have one coordinate, which is 0.
    """
    x = to_float64(features)
    x = x - x.mean(0)
    basis, scales, _ = torch.linalg.svd(x, full_matrices=False)
    variances = scales.square()
    total = variances.sum()
    if total <= torch.finfo(torch.float32).eps ** 2 * to_float64(features).square().sum():
        return x.new_zeros(len(x), 1)
    rank = int((variances.cumsum(0) < energy * total * (1 - 1e-12)).sum()) + 1
    return (basis * scales)[:, :rank] / (total / x.numel()).sqrt()


def _score(evidence: Evidence) -> float:
    return nleep_score(evidence.features, evidence.labels, evidence.num_classes, evidence.seed)


NLEEP = Proxy(
    name="nleep",
    score=_score,
    cost="one forward pass of the probe images and a Gaussian mixture of up to 5 C components",
    label="N-LEEP, nats an image",
    needs=frozenset({"features"}),
)
