"""Fine-tuning: the target's copy with more outputs, all of it trained on the weak data, nothing against forgetting."""

from __future__ import annotations

from torch import nn

from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train


def fine_tune(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Class-balanced cross-entropy on the correction samples; the sources are not used."""
    return train(ExpandedNetwork(problem, seed=seed), problem.correction, settings, seed=seed)
