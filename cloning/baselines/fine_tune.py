"""Fine-tuning: the target's copy with more outputs, all of it trained on the weak data, nothing against forgetting."""

from __future__ import annotations

from torch import nn

from cloning.baselines.task import BaselineSettings, BaselineTask, ExpandedNetwork, fit


def fine_tune(task: BaselineTask, settings: BaselineSettings, *, seed: int) -> nn.Module:
    """Class-balanced cross-entropy on the correction samples; the sources are not used."""
    return fit(ExpandedNetwork(task, seed=seed), task.correction, settings, seed=seed)
