"""Direct ensembles: target and whole sources side by side, each answering for its own classes; nothing is trained.

Every network computes its outputs over all the classes it knows; those asked of it are put side by side, either as
they are (logits) or after each network's own softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cloning.frozen import FrozenNetwork
from cloning.head import calibrate
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from cloning.samples import BATCH_SIZE, Samples
from zoo.chain.batches import run_in_batches
from zoo.conversion import convert


class Ensemble(nn.Module):
    """Images preprocessed for the target to logits, or to logarithms of the networks' probabilities."""

    def __init__(self, problem: CloningProblem, *, softmax: bool) -> None:
        super().__init__()
        self.problem, self.softmax = problem, softmax
        self.scale = self.offset = None  # (classes,), each network's own, where they are calibrated

    @property
    def networks(self) -> tuple[FrozenNetwork, ...]:
        """What runs: target and sources."""
        return self.problem.network.networks()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        problem, columns = self.problem, {}
        members = [(problem.target, problem.kept), *((clone.source, clone.classes) for clone in problem.network.clones)]
        for network, classes in members:
            outputs = network.logits(convert(x, problem.target.input, network.input))
            if self.softmax:
                outputs = outputs.log_softmax(1)
            columns.update({name: outputs[:, network.classes.index(name)] for name in classes})
        logits = torch.stack([columns[name] for name in problem.network.classes], dim=1)
        return logits if self.scale is None else logits * self.scale + self.offset


def ensemble_calibrated(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """The networks' logits, each network's with a scale and an offset of its own; settings and seed play no part.

    They minimise the class-balanced cross-entropy of the validation images, on which others choose their strengths.
    """
    ensemble = Ensemble(problem, softmax=False)
    samples = Samples(*problem.data.images("val", problem.target.input))
    logits = run_in_batches(ensemble, samples.images, batch_size=BATCH_SIZE)
    scale, offset = calibrate(logits, samples.labels, problem.network.owners)
    ensemble.scale, ensemble.offset = scale.float(), offset.float()
    return ensemble


def ensemble_softmax(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Each network's softmax over its own classes; settings and seed play no part."""
    return Ensemble(problem, softmax=True)


def ensemble_logits(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """The networks' logits as they are; settings and seed play no part."""
    return Ensemble(problem, softmax=False)
