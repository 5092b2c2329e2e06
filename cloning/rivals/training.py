"""The settings of all rivals, the target's copy with more outputs, and their one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.head import class_weights
from cloning.rivals.problem import CloningProblem
from cloning.samples import Samples
from zoo.errors import UserError
from zoo.limits import above, at_least, check


@dataclass(frozen=True)
class RivalSettings:
    """Budget and strengths; each rival reads those it has.

    Attributes:
        num_steps: Steps of Adam with a cosine schedule; none for the ensembles.
        batch_size: Images of a step, drawn with equal chance for every class.
        learning_rate: Peak.
        strength: Weight of the term that protects the old classes (EWC, LwF).
        temperature: Of LwF's distillation.
    """

    num_steps: Annotated[int, at_least(1)] = 150
    batch_size: Annotated[int, at_least(1)] = 64
    learning_rate: Annotated[float, above(0, 1000)] = 1e-3
    strength: Annotated[float, at_least(0, 1e9)] = 1.0
    temperature: Annotated[float, above(0, 1000)] = 2.0

    def __post_init__(self) -> None:
        check(self, "rival")


class Rival(Protocol):
    """A way to the wanted classes; ``seed`` fixes all that is drawn."""

    def __call__(self, problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module: ...


class ExpandedNetwork(nn.Module):
    """A copy of the target whose classifier has rows for the new classes, all of it trainable.

    Rows of the target's classes are as they were, those of new classes are drawn as ``nn.Linear`` draws them.
    Normalisation statistics stay the target's (evaluation mode): with a few samples that is best for every rival.
    """

    def __init__(self, problem: CloningProblem, *, seed: int) -> None:
        super().__init__()
        target = problem.target
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(target.num_features)
        self.body = target.thawed().chain.network
        self.head = nn.utils.skip_init(nn.Linear, target.num_features, len(problem.network.classes))
        rows = [target.classes.index(name) for name in problem.kept]
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.uniform_(-limit, limit, generator=generator)
            self.head.weight[problem.kept_outputs] = target.weight[rows]
            self.head.bias[problem.kept_outputs] = target.bias[rows]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.head(self.body(x))


@torch.enable_grad()
def train(
    network: nn.Module,
    samples: Samples,
    settings: RivalSettings,
    *,
    seed: int,
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> nn.Module:
    """Trains all parameters of a network in place by cross-entropy over batches that hold all classes alike.

    Args:
        network: From images to logits.
        samples: To draw batches from.
        settings: Budget and learning rate.
        seed: Of the batches.
        penalty: Added to the loss; from the indices (b,) of the batch's samples and the logits (b, classes).

    Raises:
        UserError: The loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    chance = class_weights(samples.labels, int(samples.labels.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_steps)
    for step in range(settings.num_steps):
        batch = torch.multinomial(chance, settings.batch_size, replacement=True, generator=generator)
        logits = network(samples.images[batch])
        loss = F.cross_entropy(logits, samples.labels[batch])
        if penalty is not None:
            loss = loss + penalty(batch, logits)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {step}; lower the learning rate or the strength")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network
