"""What a network learns of others: their outputs, softened, on the images that it is trained on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings

Penalty = Callable[[Tensor, Tensor], Tensor]


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)), mean over the samples; both (n, classes)."""
    log_student, log_teacher = (F.log_softmax(values / temperature, dim=1) for values in (logits, taught))
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def taught_by_sources(problem: CloningProblem, settings: RivalSettings) -> Penalty:
    """Distillation of the classes that each source gives, on every correction sample, of weight 1 a source."""
    teachers = problem.source_logits(problem.correction.images)

    def penalty(batch: Tensor, logits: Tensor) -> Tensor:
        parts = [distillation(logits[:, own], taught[batch], settings.temperature) for own, taught in teachers]
        return sum(parts, logits.new_zeros(()))

    return penalty
