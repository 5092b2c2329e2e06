"""Direct ensembles: target and whole sources side by side, each answering for its own classes; nothing is trained.

Every network computes its outputs over all the classes it knows; those asked of it are put side by side, either as
they are (logits) or after each network's own softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cloning.baselines.task import BaselineSettings, BaselineTask
from cloning.frozen import convert


class Ensemble(nn.Module):
    """Images preprocessed for the target to logits, or to logarithms of the networks' probabilities."""

    def __init__(self, task: BaselineTask, *, softmax: bool) -> None:
        super().__init__()
        self.task, self.softmax = task, softmax

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        task, columns = self.task, {}
        members = [(task.target, task.kept), *((clone.source, clone.classes) for clone in task.network.clones)]
        for network, classes in members:
            outputs = network.logits(convert(x, task.target.input, network.input))
            if self.softmax:
                outputs = outputs.log_softmax(1)
            columns.update({name: outputs[:, network.classes.index(name)] for name in classes})
        return torch.stack([columns[name] for name in task.network.classes], dim=1)


def ensemble_softmax(task: BaselineTask, settings: BaselineSettings, *, seed: int) -> nn.Module:
    """Each network's softmax over its own classes; settings and seed play no part."""
    return Ensemble(task, softmax=True)


def ensemble_logits(task: BaselineTask, settings: BaselineSettings, *, seed: int) -> nn.Module:
    """The networks' logits as they are; settings and seed play no part."""
    return Ensemble(task, softmax=False)
