"""Learning without forgetting: fine-tuning while the old outputs are distilled from the untouched target.

Source: Li and Hoiem, Learning without Forgetting (arXiv 1606.09282), equations 1 to 5, with temperature 2. However many
sources there are, it is the target's classes that are distilled, on every correction sample, and on request those of
the sources.

Differs from the paper: one softmax over old and new classes for the cross-entropy, as they are told apart at test time
without knowing which task an image is of; distillation as a Kullback-Leibler divergence times T^2, the same gradients
as the paper's cross-entropy of the two up to that factor; no warm-up of the new rows.
"""

from __future__ import annotations

from torch import Tensor, nn

from cloning.rivals.distillation import taught_by_sources
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train
from tuning.losses import distillation


def lwf(problem: CloningProblem, settings: RivalSettings, *, seed: int, with_sources: bool = False) -> nn.Module:
    """Fine-tunes on the correction samples; ``settings.strength`` weighs the distillation of the target.

    ``with_sources`` distils the classes of the sources, too, of each from itself.
    """
    taught = problem.target_logits(problem.correction.images)
    outputs = problem.kept_outputs
    others = taught_by_sources(problem, settings) if with_sources else None

    def penalty(batch: Tensor, logits: Tensor) -> Tensor:
        own = distillation(logits[:, outputs], taught[batch], temperature=settings.temperature)
        own = settings.strength * own / len(logits)
        return own if others is None else own + others(batch, logits)

    return train(ExpandedNetwork(problem, seed=seed), problem.correction, settings, seed=seed, penalty=penalty)
