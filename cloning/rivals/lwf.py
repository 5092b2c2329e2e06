"""Learning without forgetting: fine-tuning while the old outputs are distilled from the untouched target.

Source: Li and Hoiem, Learning without Forgetting (arXiv 1606.09282), equations 1 to 5, with temperature 2. However many
sources there are, it is the target's classes that are distilled, on every correction sample; the sources are not used.

Differs from the paper: one softmax over old and new classes for the cross-entropy, as they are told apart at test time
without knowing which task an image is of; distillation as a Kullback-Leibler divergence times T^2, the same gradients
as the paper's cross-entropy of the two up to that factor; no warm-up of the new rows.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train


def lwf(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Fine-tunes on the correction samples; ``settings.strength`` weighs the distillation."""
    taught = problem.target_logits(problem.correction.images)
    outputs = problem.kept_outputs

    def penalty(batch: Tensor, logits: Tensor) -> Tensor:
        return settings.strength * distillation(logits[:, outputs], taught[batch], settings.temperature)

    return train(ExpandedNetwork(problem, seed=seed), problem.correction, settings, seed=seed, penalty=penalty)


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)), mean over the samples; both (n, classes)."""
    log_student, log_teacher = (F.log_softmax(values / temperature, dim=1) for values in (logits, taught))
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
