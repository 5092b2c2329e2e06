"""What a network learns of others: their outputs, softened, on the images that it is trained on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from tuning.losses import distillation

Penalty = Callable[[Tensor, Tensor], Tensor]


def taught_by_sources(problem: CloningProblem, settings: RivalSettings) -> Penalty:
    """Distillation of the classes that each source gives, on every correction sample, of weight 1 a source."""
    teachers = problem.source_logits(problem.correction.images)

    def penalty(batch: Tensor, logits: Tensor) -> Tensor:
        parts = [
            distillation(logits[:, own], taught[batch], temperature=settings.temperature) for own, taught in teachers
        ]
        return sum(parts, logits.new_zeros(())) / len(logits)

    return penalty
