"""Joint training, the upper bound: the target's copy fine-tuned on all training images of all classes."""

from __future__ import annotations

from torch import nn

from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train


def joint(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Trains on ``problem.complete`` instead of the weak data; the sources are not used."""
    return train(ExpandedNetwork(problem, seed=seed), problem.complete, settings, seed=seed)
