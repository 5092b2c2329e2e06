"""The target's copy with more outputs, all of it trained, with nothing against forgetting.

Fine-tuning trains on the weak data; joint training, the upper bound, on all training images of all classes.
"""

from __future__ import annotations

from torch import nn

from cloning.rivals.distillation import taught_by_sources
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train


def fine_tune(problem: CloningProblem, settings: RivalSettings, *, seed: int, with_sources: bool = False) -> nn.Module:
    """Class-balanced cross-entropy on the correction samples; ``with_sources``: with what the sources say of them."""
    penalty = taught_by_sources(problem, settings) if with_sources else None
    return train(ExpandedNetwork(problem, seed=seed), problem.correction, settings, seed=seed, penalty=penalty)


def joint(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """The same on ``problem.complete`` instead of the weak data."""
    return train(ExpandedNetwork(problem, seed=seed), problem.complete, settings, seed=seed)
