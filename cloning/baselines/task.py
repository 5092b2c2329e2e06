"""What a baseline is given, the target's copy with more outputs, and the one training loop of all baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.frozen import FrozenNetwork
from cloning.head import class_weights
from cloning.insertion import Samples, mean
from cloning.measures import Accuracies
from cloning.network import ClonedNetwork
from cloning.tuning import correction_samples
from datamodules.correction import CorrectionData
from zoo.errors import UserError
from zoo.limits import above, at_least, check

_CHUNK = 256


@dataclass(frozen=True)
class BaselineTask:
    """The question that a cloned network answers.

    Attributes:
        network: The cloned network in closed form; it names target, sources and classes, and is left as it is.
        data: The correction data that cloning tunes on, labelled by ``network.classes``.
        complete: All training images of all classes, preprocessed for the target, labelled likewise. Only ``joint``
            trains on them; EWC reads its Fisher information off the target's part.
    """

    network: ClonedNetwork
    data: CorrectionData
    complete: Samples

    @property
    def target(self) -> FrozenNetwork:
        """The network that receives."""
        return self.network.target

    @property
    def cloned(self) -> frozenset[str]:
        """Names of the classes that come from the sources."""
        return frozenset(name for clone in self.network.clones for name in clone.classes)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the target's classes, in the order of the outputs."""
        return tuple(name for name in self.network.classes if name not in self.cloned)

    @property
    def kept_outputs(self) -> list[int]:
        """Outputs of the cloned network that belong to the target's classes."""
        return [self.network.classes.index(name) for name in self.kept]

    @cached_property
    def correction(self) -> Samples:
        """The correction samples, preprocessed for the target, with the copies that cloning itself is given."""
        return correction_samples(self.data, self.target.input)

    def target_logits(self, images: Tensor) -> Tensor:
        """The untouched target's logits (n, kept classes)."""
        outputs = [self.target.classes.index(name) for name in self.kept]
        with torch.no_grad():
            return torch.cat([self.target.logits(part) for part in images.split(_CHUNK)])[:, outputs]


@dataclass(frozen=True)
class BaselineSettings:
    """Budget and strengths; each baseline reads those it has.

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
        check(self, "baseline")


class Baseline(Protocol):
    """A way to the wanted classes; ``seed`` fixes all that is drawn."""

    def __call__(self, task: BaselineTask, settings: BaselineSettings, *, seed: int) -> nn.Module: ...


class ExpandedNetwork(nn.Module):
    """A copy of the target whose classifier has rows for the new classes, all of it trainable.

    Rows of the target's classes are as they were, those of new classes are drawn as ``nn.Linear`` draws them.
    Normalisation statistics stay the target's (evaluation mode): with a few samples that is best for every baseline.
    """

    def __init__(self, task: BaselineTask, *, seed: int) -> None:
        super().__init__()
        target = task.target
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(target.num_features)
        self.body = target.thawed().chain.network
        self.head = nn.utils.skip_init(nn.Linear, target.num_features, len(task.network.classes))
        rows = [target.classes.index(name) for name in task.kept]
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.uniform_(-limit, limit, generator=generator)
            self.head.weight[task.kept_outputs] = target.weight[rows]
            self.head.bias[task.kept_outputs] = target.bias[rows]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.head(self.body(x))


@torch.enable_grad()
def fit(
    network: nn.Module,
    samples: Samples,
    settings: BaselineSettings,
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


@torch.no_grad()
def measure(module: nn.Module, task: BaselineTask, split: str) -> Accuracies:
    """Accuracies of a baseline's module on a split, as ``cloning.measures`` has them."""
    samples = Samples(*task.data.images(split, task.target.input))
    correct = torch.cat([module(part).argmax(1) for part in samples.images.split(_CHUNK)]) == samples.labels
    by_class = {}
    for label, name in enumerate(task.network.classes):
        found = correct[samples.labels == label]
        by_class[name] = found.double().mean().item() if len(found) else None
    original = mean([by_class[name] for name in task.kept])
    cloned = mean([value for name, value in by_class.items() if name in task.cloned])
    return Accuracies(original, cloned, (original + cloned) / 2, by_class)
