"""Joint training, the upper bound: the target's copy fine-tuned on all training images of all classes."""

from __future__ import annotations

from torch import nn

from cloning.baselines.task import BaselineSettings, BaselineTask, ExpandedNetwork, fit


def joint(task: BaselineTask, settings: BaselineSettings, *, seed: int) -> nn.Module:
    """Trains on ``task.complete`` instead of the weak data; the sources are not used."""
    return fit(ExpandedNetwork(task, seed=seed), task.complete, settings, seed=seed)
