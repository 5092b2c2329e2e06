"""RanPAC: the frozen target's features behind a wide random projection, and ridge regression from second moments.

Source: McDonnell et al., RanPAC: Random Projections and Pre-trained Models for Continual Learning (NeurIPS 2023, arXiv
2307.02251): h = max(0, W f), prototypes (G + lambda I)^-1 C. G and C are those of all training images of the target's
classes, gathered when these were learnt, and of the correction samples of the new ones; that no image of an old class
is needed for them is the method's point, so that exemplars play no part.

Differs from the paper: lambda is relative to the mean of G's diagonal; 2,000 random features instead of 10,000, as the
features are few; no adaptation of the network in the first session, which is trained on the target's classes already.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.frozen import FrozenNetwork
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from cloning.samples import BATCH_SIZE
from zoo.chain.batches import run_in_batches
from zoo.ridge import damped_solve

NUM_FEATURES = 2000


class RandomFeatures(nn.Module):
    """Images preprocessed for the target to logits by prototypes over random features of the target."""

    def __init__(self, target: FrozenNetwork, num_classes: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.target = target
        self.register_buffer("projection", torch.randn(NUM_FEATURES, target.num_features, generator=generator))
        self.prototypes = nn.Parameter(torch.zeros(num_classes, NUM_FEATURES), requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        """(N, NUM_FEATURES)."""
        return F.relu(self.target.features(x) @ self.projection.T)

    @property
    def networks(self) -> tuple[FrozenNetwork, ...]:
        """What runs beside it."""
        return (self.target,)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.features(x) @ self.prototypes.T


@torch.no_grad()
def ranpac(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Solves the prototypes; ``settings.strength`` is lambda."""
    classes = problem.network.classes
    found = RandomFeatures(problem.target, len(classes), seed=seed)
    kept = problem.kept_outputs
    gram = torch.zeros(NUM_FEATURES, NUM_FEATURES, dtype=torch.float64)
    sums = torch.zeros(NUM_FEATURES, len(classes), dtype=torch.float64)
    is_new = torch.tensor([label not in kept for label in range(len(classes))])
    for samples, wanted in ((problem.complete, ~is_new), (problem.correction, is_new)):
        there = wanted[samples.labels]
        if there.any():
            h = run_in_batches(found.features, samples.images[there], batch_size=BATCH_SIZE).double()
            gram += h.T @ h
            sums += h.T @ F.one_hot(samples.labels[there], len(classes)).double()
    solved = damped_solve(gram, sums, settings.strength * float(gram.diagonal().mean()))
    found.prototypes.copy_(solved.T)
    return found
