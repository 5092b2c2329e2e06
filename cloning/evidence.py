"""What a localiser sees of a source, and of the network that its module is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cloning.clone import Clone
from cloning.frozen import FrozenNetwork
from cloning.gates import GateSite, num_gates
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.settings import LocalisationSettings
from zoo.chain.batches import in_precision


@dataclass(frozen=True)
class Graft:
    """What the module is for.

    Attributes:
        network: The target with this one source, which is whole and at the image.
        samples: Of all its classes, those of the target among them.
    """

    network: ClonedNetwork
    samples: Samples

    @property
    def is_cloned(self) -> Tensor:
        """(n,) of bool: which samples are of the classes that the source gives."""
        cloned = [self.network.classes.index(name) for name in self.network.cloned_classes]
        return torch.isin(self.samples.labels, torch.tensor(cloned).to(self.samples.labels))

    @property
    def is_known(self) -> Tensor:
        """(n,) of bool: which samples are of classes that the source knows."""
        (source,) = (clone.source for clone in self.network.clones)
        known = [label for label, name in enumerate(self.network.classes) if name in source.classes]
        return torch.isin(self.samples.labels, torch.tensor(known).to(self.samples.labels))

    def with_few(self, most: int, generator: torch.Generator) -> Graft:
        """The same with at most so many samples of each class."""
        chosen = []
        for label in self.samples.labels.unique().cpu().tolist():
            members = (self.samples.labels == label).nonzero().flatten()
            order = torch.randperm(len(members), generator=generator)[:most]
            chosen.append(members[order.to(members.device)])
        index = torch.cat(chosen)
        return Graft(self.network, Samples(self.samples.images[index], self.samples.labels[index]))


@dataclass(frozen=True)
class SourceEvidence:
    """What a localiser sees; see ``cloning.localise.localise``."""

    network: nn.Module
    sites: Sequence[GateSite]
    images: Tensor
    labels: Tensor
    black: Tensor
    settings: LocalisationSettings
    others: Tensor
    shares: Tensor
    keeps: Sequence[float]
    precision: torch.dtype | None = None
    graft: Graft | None = None

    @property
    def outputs(self) -> Callable[[Tensor], Tensor]:
        """The network, in the precision asked for."""
        return in_precision(self.network, self.precision)


def whole_graft(
    target: FrozenNetwork, source: FrozenNetwork, kept: Sequence[str], classes: Sequence[str], samples: Samples
) -> Graft | None:
    """Of a source that gives some classes to a target that keeps others.

    Args:
        target: The network that receives.
        source: The network that gives.
        kept: The target's classes that stay.
        classes: Those that the source gives.
        samples: Labelled by ``kept`` and then ``classes``, preprocessed for the target, where they are.

    Returns:
        ``None`` if no sample is of a class that the target keeps.
    """
    if not (samples.labels < len(kept)).any():
        return None
    clone = Clone(source, tuple(classes), torch.ones(num_gates(source.sites)), 0)
    network = ClonedNetwork(target, [*kept, *classes], [clone], [None])
    return Graft(network.to(samples.images.device), samples)
