"""Many cloned networks on one zoo: every network is held once, and what several clones need is computed once.

A clone on the shelf is its head, its adapters and the bits of its gates and features. A batch may hold images for many
clones: the target runs once over all images of clones on it, a module once over all images of clones that share it (the
same source with the same gates, fed at the same cut), and only adapters and heads run clone by clone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cloning.blueprint import CloningBlueprint
from cloning.clone import Clone, source_position
from cloning.composite import Composite, read_composite
from cloning.framing import Packed
from cloning.frozen import FrozenNetwork
from cloning.gates import gated, pack_gates
from cloning.network import ClonedNetwork
from cloning.stages import target_features
from zoo.chain import Chain
from zoo.conversion import convert
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo

MAX_GRAFTS = 64
"""Grafts of one cloned network; a stranger's file of many would make every answer slow."""


@dataclass(frozen=True)
class Shelved:
    """A cloned network on the shelf.

    Attributes:
        name: On the shelf.
        network: Shares its target and sources with all others.
        blueprint: Its composition.
        num_bytes: Of its file.
        sha256: Of its file.
    """

    name: str
    network: ClonedNetwork
    blueprint: CloningBlueprint
    num_bytes: int
    sha256: str


class Shelf:
    """The networks of a zoo, each loaded when a clone first needs it and held once, and what runs on them.

    One thread at a time may use it: gates are hooks on shared networks while these run.

    Args:
        zoo: Where target and sources come from.
    """

    def __init__(self, zoo: Zoo) -> None:
        self.zoo = zoo
        self.networks: dict[str, FrozenNetwork] = {}

    def network(self, name: str) -> FrozenNetwork:
        """The network of that name; refusals as in ``zoo.loading.load_chain``, or the zoo has none."""
        if name not in self.networks:
            entry = self.zoo.entry(name)
            self.networks[name] = _Held(load_chain(entry), entry.classes, entry.input)
        return self.networks[name]

    def open(self, name: str, file: Packed) -> Shelved:
        """A cloned network for the shelf.

        Args:
            name: On the shelf.
            file: A packed clone, or several of them (``cloning.composite``).

        Raises:
            UserError: As ``cloning.composite.unpack_any``: damaged, of networks that the zoo lacks or has with other
                weights, of logits that are not the sender's; or of more than ``MAX_GRAFTS`` grafts.
        """
        composite = read_composite(file)
        self._check(file, composite)
        network = composite.unpacked(self.network).network.requires_grad_(False)
        checksum = hashlib.sha256(file.content).hexdigest()
        return Shelved(name, network, composite.blueprint, len(file.content), checksum)

    def _check(self, file: Packed, composite: Composite) -> None:
        blueprint = composite.blueprint
        if len(blueprint.clones) > MAX_GRAFTS:
            raise UserError(f"{file}: {len(blueprint.clones):,} grafts, but at most {MAX_GRAFTS} are served")
        for name in blueprint.networks:
            if name not in self.zoo:
                raise UserError(f"{file}: foreign: the zoo {self.zoo.name!r} has no network {name!r}")

    @torch.no_grad()
    def logits(self, requests: Sequence[tuple[ClonedNetwork, Tensor]]) -> list[Tensor]:
        """Logits (n, C) of every request, its images (n, channels, H, W) preprocessed for its target.

        For one request they are what its network gives, bit for bit; beside others the images run in a larger batch,
        which changes the last digits.
        """
        found: list[Tensor | None] = [None] * len(requests)
        targets = dict.fromkeys(network.target for network, _ in requests)
        for target in targets:
            members = [k for k, (network, _) in enumerate(requests) if network.target is target]
            features = _features(target, [requests[k] for k in members])
            for k, parts in zip(members, features, strict=True):
                found[k] = requests[k][0].head(torch.cat(parts, dim=1))
        return [value for value in found if value is not None]


class _Held(FrozenNetwork):
    """A network that nothing but the shelf uses: what is looked at, switched and built for each pass elsewhere is so
    once, which is most of the time that a pass of a small network takes."""

    def __init__(self, chain: Chain, classes: Sequence[str], input: InputSpec) -> None:
        super().__init__(chain, classes, input)
        chain.network.eval().requires_grad_(False)
        self._digest: str | None = None
        chain.block = cache(chain.block)  # of this object alone

    def digest(self) -> str:
        if self._digest is None:
            self._digest = super().digest()
        return self._digest

    @contextmanager
    def _untouched(self, gates: Tensor | None) -> Iterator[None]:
        with gated(self.chain.network, self.sites, gates) if gates is not None else nullcontext():
            yield


@dataclass
class _Job:
    """Inputs of one module, of the requests that need it; ``places``: number of request and block, and whose it is."""

    clone: Clone
    start: int
    inputs: list[Callable[[], Tensor]]
    places: list[tuple[int, int, Clone]]


def _features(target: FrozenNetwork, requests: Sequence[tuple[ClonedNetwork, Tensor]]) -> list[list[Tensor]]:
    """What the heads of requests on one target read: the target's features, then those of every clone."""
    sizes = [len(images) for _, images in requests]
    images = torch.cat([images for _, images in requests]) if len(requests) > 1 else requests[0][1]
    positions = {clone.position for network, _ in requests for clone in network.clones} - {0}
    cuts = sorted({cut for network, _ in requests for cut in network.head_cuts})
    own, tensors = target_features(target, images, cuts, sorted(positions))
    at = {position: value.split(sizes) for position, value in tensors.items()}
    widths = [target.num_features, *(target.chain.signal(cut).channels for cut in cuts)]
    found = []
    for (network, _), part in zip(requests, own.split(sizes), strict=True):
        last, *means = part.split(widths, dim=1)
        found.append([last, *(mean for cut, mean in zip(cuts, means, strict=True) if cut in network.head_cuts)])
    jobs: dict[tuple[str, bytes, int], _Job] = {}
    for number, (network, own) in enumerate(requests):
        for clone, adapter in zip(network.clones, network.adapters, strict=True):
            start = source_position(target, clone.source, clone.position)
            key = (clone.source.name, pack_gates(clone.gates), start)
            job = jobs.setdefault(key, _Job(clone, start, [], []))
            if clone.position == 0:
                job.inputs.append(lambda own=own, clone=clone: convert(own, target.input, clone.source.input))
            else:
                x = at[clone.position][number]
                job.inputs.append(lambda adapter=adapter, x=x: adapter(x))
            job.places.append((number, len(found[number]), clone))
            found[number].append(images)  # a place to fill
    for job in jobs.values():
        parts = [make() for make in job.inputs]
        outputs = job.clone.features(torch.cat(parts) if len(parts) > 1 else parts[0], job.start)
        for (number, index, clone), part in zip(job.places, outputs.split([len(x) for x in parts]), strict=True):
            found[number][index] = clone.select(part)
    return found
