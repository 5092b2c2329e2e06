"""What is reported of a clone: accuracies, locality with its control, bytes, and that the zoo is as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork, ThawedNetwork
from cloning.gates import split_gates
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from cloning.stages import module_features
from zoo.chain.batches import map_batches, run_in_batches
from zoo.chain.costs import Costs, count
from zoo.errors import UserError
from zoo.ridge import to_float64
from zoo.stitching.adapters import Adapter, adapter_costs
from zoo.timing import synchronise


@dataclass(frozen=True)
class Accuracies:
    """In [0, 1]; averaged over classes, so that frequent classes do not count more; ``None`` without images.

    Attributes:
        original: Of the classes that the target keeps.
        cloned: Of the cloned classes.
        mean: Of the two figures before.
        classes: By class.
    """

    original: float | None
    cloned: float | None
    mean: float | None
    classes: Mapping[str, float | None]


@dataclass(frozen=True)
class Locality:
    """Conditional similarity Sim: how alike module and source are, by class of the images.

    Sim is the mean cosine of centred logits (each image's logits minus their mean over the outputs), in [-1, 1]. The
    article prints no equation; cosines of LIME coefficients do not separate cloned from other classes, these do.

    Attributes:
        source: Name of the source.
        cloned: Mean over the cloned classes.
        other: Mean over the source's other classes; ``None`` if the data has none of them.
        random_cloned: The same for a module with as many gates open in every layer and as many features, at random.
        random_other: The same.
        cloned_classes: Their names.
        classes: Sim by class of the source.
        random_classes: The same for the random module.
    """

    source: str
    cloned: float
    other: float | None
    random_cloned: float
    random_other: float | None
    cloned_classes: tuple[str, ...]
    classes: Mapping[str, float]
    random_classes: Mapping[str, float]


def measure_accuracies(network: ClonedNetwork, samples: Samples, module: nn.Module | None = None) -> Accuracies:
    """Accuracies of a cloned network, or of another module in its place.

    Args:
        network: Says which classes are kept and which are cloned.
        samples: Labelled by its classes.
        module: From images to logits in the order of the network's classes; the network itself if not given.
    """
    by_class = dict(
        zip(network.classes, class_accuracies(module or network, samples, len(network.classes)), strict=True)
    )
    original, cloned = (
        mean([by_class[name] for name in names]) for names in (network.kept_classes, network.cloned_classes)
    )
    return Accuracies(original, cloned, mean([original, cloned]), by_class)


def class_accuracies(module: nn.Module, samples: Samples, num_classes: int) -> list[float | None]:
    """Share of each class's samples that a module names right; ``None`` for a class without samples."""
    logits = run_in_batches(module, samples.images, batch_size=BATCH_SIZE)
    return accuracies_of_logits(logits, samples.labels, num_classes)


def accuracies_of_logits(logits: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """The same of logits (n, C) that are there already."""
    found = logits.argmax(1) == labels
    found = [found[labels == label] for label in range(num_classes)]
    return [part.sum().item() / len(part) if len(part) else None for part in found]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; ``None`` without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def measure_locality(clone: Clone, images: Mapping[str, Tensor], *, seed: int) -> Locality:
    """Sim of a module and of its random control.

    Args:
        clone: The module.
        images: By class of the source, preprocessed for it; classes without images are left out.
        seed: Of the control.
    """
    images = {name: x for name, x in images.items() if len(x)}
    sims, random = (conditional_similarities(each, images) for each in (clone, random_like(clone, seed=seed)))
    sides = [
        mean([value for name, value in values.items() if (name in clone.classes) == is_cloned])
        for values in (sims, random)
        for is_cloned in (True, False)
    ]
    return Locality(clone.source.name, *sides, clone.classes, sims, random)


def centred_cosine(a: Tensor, b: Tensor) -> Tensor:
    """(n,) cosines of the logits (n, C) of two networks about their means over the outputs; of one output about 0."""
    if a.shape[1] > 1:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return F.cosine_similarity(a, b)


def conditional_similarities(clone: Clone, images: Mapping[str, Tensor]) -> dict[str, float]:
    """By class, the mean cosine between the centred logits of a module at the image and of its whole source.

    The module's logits are what the source's classifier makes of what the head reads. After ``tuning=full`` the module
    is the tuned copy, the whole source still the network of the zoo.
    """
    whole = clone.source.origin if isinstance(clone.source, ThawedNetwork) else clone.source

    def cosines(part: Tensor) -> Tensor:
        logits = clone.classify(module_features(clone, part))
        return centred_cosine(to_float64(logits), to_float64(whole.logits(part)))

    found = {name: [part for _, part in map_batches(cosines, x, batch_size=BATCH_SIZE)] for name, x in images.items()}
    return {name: torch.cat(parts).mean().item() for name, parts in found.items()}


def random_like(clone: Clone, *, seed: int) -> Clone:
    """As many open gates in every layer, and as many features that are selected, drawn at random."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for part in split_gates(clone.gates, clone.source.sites):
        parts.append(part[torch.randperm(len(part), generator=generator)])
    selected = clone.selected
    if selected is not None:
        selected = torch.randperm(clone.source.num_features, generator=generator)[: len(selected)].sort().values
    return replace(clone, gates=torch.cat(parts), selected=selected)


def kept_per_layer(clone: Clone) -> dict[str, tuple[int, int]]:
    """Open gates and all gates of every layer, by the qualified name of the gated module."""
    parts = clone.gates.split([site.num_gates for site in clone.source.sites])
    return {site.path: (int(part.sum()), len(part)) for site, part in zip(clone.source.sites, parts, strict=True)}


def num_bytes(network: ClonedNetwork) -> int:
    """What travels: bits of gates and of features that are selected, and adapters and head in float32."""
    learnt = 4 * sum(parameter.numel() for part in (network.adapters, network.head) for parameter in part.parameters())
    widths = [len(clone.gates) for clone in network.clones]
    widths += [clone.source.num_features for clone in network.clones if clone.selected is not None]
    return learnt + sum(-(-width // 8) for width in widths)


def size_share(network: ClonedNetwork) -> tuple[int, float]:
    """Bytes that travel (float32), and their share of what the cloned network and its networks weigh together."""
    travels = num_bytes(network)
    parameters = sum(p.numel() for frozen in network.networks() for p in frozen.chain.network.parameters())
    return travels, travels / (4 * parameters + travels)


def measure_costs(network: ClonedNetwork) -> Costs:
    """Parameters of everything that runs, and its MACs per image: the target, the slim modules, adapters, head.

    After ``tuning=full`` these are copies of the whole networks, whose closed units are computed and set to zero.
    """
    if isinstance(network.target, ThawedNetwork):
        return count(network, network.target.input.example())
    columns = network.target.num_features * len(network.classes)
    return sum(added_costs(network), network.target.chain.costs + Costs(columns + len(network.classes), columns))


def added_costs(network: ClonedNetwork) -> tuple[Costs, ...]:
    """What each clone adds to the target: its module as it runs, its adapter, and its columns of the head.

    The columns for what the head reads at cuts of the target, which it reads once for all clones, are the first one's.
    """
    found, shared = [], network.num_target_features - network.target.num_features
    for clone, adapter in zip(network.clones, network.adapters, strict=True):
        columns, shared = (clone.num_features + shared) * len(network.classes), 0
        costs = clone.costs(source_position(network.target, clone.source, clone.position))
        if isinstance(adapter, Adapter):
            costs += adapter_costs(adapter.source, adapter.target, adapter.kind, adapter.kernel_size)
        found.append(costs + Costs(columns, columns))
    return tuple(found)


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image on the network's device, the least of several runs.

    Attributes:
        target: Of the target alone.
        cloned: Of the cloned network.
        whole_sources: Of target and sources, each as a whole, one after the other.
    """

    target: float
    cloned: float
    whole_sources: float


@torch.no_grad()
def measure_latency(network: ClonedNetwork, num_runs: int = 7) -> Latency:
    """What the slim modules save in time, on this machine and as it is loaded now."""
    x, target, device = network.target.input.example(), network.target, network.head.weight.device
    images = {clone.source: clone.source.input.example() for clone in network.clones}

    def least(run: Callable[[], object]) -> float:
        run()
        synchronise(device)
        seconds = []
        for _ in range(num_runs):
            started = time.perf_counter()
            run()
            synchronise(device)
            seconds.append(time.perf_counter() - started)
        return 1000 * min(seconds)

    x, images = x.to(device), {source: image.to(device) for source, image in images.items()}
    alone = least(lambda: target.logits(x))
    sources = sum(least(lambda source=source: source.logits(images[source])) for source in images)
    return Latency(alone, least(lambda: network(x)), alone + sources)


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
