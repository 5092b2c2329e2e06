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
from cloning.settings import LocalisationSettings, Share
from zoo.chain.batches import in_precision


@dataclass(frozen=True)
class Graft:
    """What the module is for.

    Attributes:
        network: The target with all sources, which are whole and at the image.
        place: Among its clones, that of the module.
        samples: Of all its classes, those of the target among them.
    """

    network: ClonedNetwork
    place: int
    samples: Samples

    @property
    def clone(self) -> Clone:
        """The whole source of the module."""
        return self.network.clones[self.place]

    @property
    def columns(self) -> slice:
        """Of the features that the head reads, those of the module."""
        widths = [self.network.target.num_features, *(clone.num_features for clone in self.network.clones)]
        start = sum(widths[: self.place + 1])
        return slice(start, start + widths[self.place + 1])

    @property
    def is_cloned(self) -> Tensor:
        """(n,) of bool: which samples are of the classes that the source gives."""
        labels = [label for label, name in enumerate(self.network.classes) if name in self.clone.classes]
        return torch.isin(self.samples.labels, torch.tensor(labels).to(self.samples.labels))

    def with_few(self, most: int, generator: torch.Generator) -> Graft:
        """The same with at most so many samples of each class."""
        chosen = []
        for label in self.samples.labels.unique().cpu().tolist():
            members = (self.samples.labels == label).nonzero().flatten()
            order = torch.randperm(len(members), generator=generator)[:most]
            chosen.append(members[order.to(members.device)])
        index = torch.cat(chosen)
        return Graft(self.network, self.place, Samples(self.samples.images[index], self.samples.labels[index]))


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
    tries: Sequence[Share]
    precision: torch.dtype | None = None
    graft: Graft | None = None

    @property
    def outputs(self) -> Callable[[Tensor], Tensor]:
        """The network, in the precision asked for."""
        return in_precision(self.network, self.precision)


def whole_graft(
    target: FrozenNetwork,
    sources: Sequence[tuple[FrozenNetwork, Sequence[str]]],
    place: int,
    kept: Sequence[str],
    samples: Samples,
) -> Graft | None:
    """Of sources that give some classes to a target that keeps others.

    Args:
        target: The network that receives.
        sources: The networks that give, with the classes that each gives.
        place: Among them, that of the module.
        kept: The target's classes that stay.
        samples: Labelled by ``kept`` and then those of each source, preprocessed for the target, where they are.

    Returns:
        ``None`` if no sample is of a class that the target keeps.
    """
    if not (samples.labels < len(kept)).any():
        return None
    clones = [Clone(source, tuple(given), torch.ones(num_gates(source.sites)), 0) for source, given in sources]
    classes = [*kept, *(name for clone in clones for name in clone.classes)]
    network = ClonedNetwork(target, classes, clones, [None] * len(clones))
    return Graft(network.to(samples.images.device), place, samples)
