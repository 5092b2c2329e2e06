"""What is reported of a clone: accuracies, locality with its control, bytes, and that the zoo is as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.frozen import FrozenNetwork
from cloning.insertion import Samples, class_accuracies, mean, num_bytes
from cloning.network import Clone, ClonedNetwork
from zoo.chain.costs import Costs, count
from zoo.errors import UserError

_CHUNK = 256


@dataclass(frozen=True)
class Accuracies:
    """In [0, 1]; averaged over classes, so that frequent classes do not count more.

    Attributes:
        original: Of the classes that the target keeps.
        cloned: Of the cloned classes.
        mean: Of the two figures before.
        classes: By class; ``None`` without images.
    """

    original: float
    cloned: float
    mean: float
    classes: Mapping[str, float | None]


@dataclass(frozen=True)
class Locality:
    """Conditional similarity Sim: how alike module and source are, by class of the images.

    Sim is the mean cosine of centred logits (each image's logits minus their mean over the outputs), in [-1, 1]. The
    article prints no equation; cosines of LIME coefficients do not separate cloned from other classes, these do.

    Attributes:
        source: Name of the source.
        cloned: Mean over the cloned classes.
        other: Mean over the source's other classes; 0 if the data has none of them.
        random_cloned: The same for a module with as many gates open in every layer, at random.
        random_other: The same.
        cloned_classes: Their names.
        classes: Sim by class of the source.
        random_classes: The same for the random module.
    """

    source: str
    cloned: float
    other: float
    random_cloned: float
    random_other: float
    cloned_classes: tuple[str, ...]
    classes: Mapping[str, float]
    random_classes: Mapping[str, float]


def measure_accuracies(network: ClonedNetwork, samples: Samples) -> Accuracies:
    """Accuracies of a cloned network; samples are labelled by its classes."""
    by_class = dict(zip(network.classes, class_accuracies(network, samples), strict=True))
    owned = {name for clone in network.clones for name in clone.classes}
    original = mean([value for name, value in by_class.items() if name not in owned])
    cloned = mean([value for name, value in by_class.items() if name in owned])
    return Accuracies(original, cloned, (original + cloned) / 2, by_class)


def measure_locality(clone: Clone, images: Mapping[str, Tensor], *, seed: int) -> Locality:
    """Sim of a module and of its random control.

    Args:
        clone: The module.
        images: By class of the source, preprocessed for it; classes without images are left out.
        seed: Of the control.
    """
    control = random_like(clone.gates, clone.source, seed=seed)
    sims = {name: similarity(clone.source, clone.gates, x) for name, x in images.items() if len(x)}
    random = {name: similarity(clone.source, control, x) for name, x in images.items() if len(x)}
    sides = [
        mean([value for name, value in values.items() if (name in clone.classes) == is_cloned])
        for values in (sims, random)
        for is_cloned in (True, False)
    ]
    return Locality(clone.source.name, *sides, clone.classes, sims, random)


@torch.no_grad()
def similarity(source: FrozenNetwork, gates: Tensor, images: Tensor) -> float:
    """Mean cosine between the centred logits of the masked and the whole source."""
    total = 0.0
    for part in images.split(_CHUNK):
        masked, whole = (source.logits(part, gates=g).double() for g in (gates, None))
        masked, whole = (z - z.mean(1, keepdim=True) for z in (masked, whole))
        total += F.cosine_similarity(masked, whole).sum().item()
    return total / len(images)


def random_like(gates: Tensor, source: FrozenNetwork, *, seed: int) -> Tensor:
    """As many open gates in every layer, drawn at random."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for part in gates.split([site.num_gates for site in source.sites]):
        parts.append(part[torch.randperm(len(part), generator=generator)])
    return torch.cat(parts)


def kept_per_layer(clone: Clone) -> dict[str, tuple[int, int]]:
    """Open gates and all gates of every layer, by the qualified name of the gated module."""
    parts = clone.gates.split([site.num_gates for site in clone.source.sites])
    return {site.path: (int(part.sum()), len(part)) for site, part in zip(clone.source.sites, parts, strict=True)}


def size_share(network: ClonedNetwork) -> tuple[int, float]:
    """Bytes that travel (float32), and their share of what the cloned network and its networks weigh together."""
    travels = num_bytes(network)
    parameters = sum(p.numel() for frozen in network.networks() for p in frozen.chain.network.parameters())
    return travels, travels / (4 * parameters + travels)


def measure_costs(network: ClonedNetwork) -> Costs:
    """Parameters of everything that runs, and its MACs per image; gates that are closed save none, they are zeros."""
    frozen = [] if len(network.copies) else network.networks()
    costs = count(network, network.target.input.example())
    return Costs(costs.num_params + sum(part.chain.costs.num_params for part in frozen), costs.macs)


def require_restored(networks: Sequence[FrozenNetwork], digests: Mapping[str, str]) -> dict[str, str]:
    """The sha256 over parameters and buffers of every network, which must be what it was.

    Raises:
        UserError: Networks have changed; with their names.
    """
    found = {network.name: network.digest() for network in networks}
    changed = [name for name, value in found.items() if value != digests[name]]
    if changed:
        raise UserError(f"the zoo's {', '.join(changed)} changed while cloning; load the zoo anew and clone again")
    return found
