"""The plain-text description of a cloned network: which target, which sources, what is open in them, and where."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork
from cloning.gates import num_gates, pack_gates, unpack_gates
from cloning.network import ClonedNetwork
from zoo.blueprint import MAX_CLASSES, Provenance, check_digest, check_networks
from zoo.errors import UserError
from zoo.stitching.adapters import Adapter

MAX_CLONES = 1000


@dataclass(frozen=True)
class CloneSpec:
    """One graft.

    Attributes:
        network: The source.
        classes: What it gives.
        position: The cut R of the target's chain that feeds it, 0 the input image.
        gates: The open gates as bits, in base64.
        features: The features of the source that the head reads as bits, in base64; nothing for all of them.
        kernel_size: Of the adapter; ``None`` at position 0.
    """

    network: str
    classes: tuple[str, ...]
    position: int
    gates: str
    kernel_size: Literal[1, 3] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        if self.position < 0:
            raise UserError(f"position {self.position} of {self.network!r}: expected 0 (the input image) or deeper")
        if (self.kernel_size is None) != (self.position == 0):
            raise UserError(f"kernel_size of {self.network!r}: expected at every position but 0, where no adapter is")


@dataclass(frozen=True)
class CloningBlueprint:
    """A target with clones.

    Attributes:
        classes: Names of the outputs in their order.
        target: The network that receives.
        clones: What is grafted onto it.
        networks: Digests of all of them.
        head_cuts: Cuts of the target, in order, whose mean features the head reads beside its last ones.
        provenance: The steps by which it came about, the first one first; for the reader.
    """

    classes: tuple[str, ...]
    target: str
    clones: tuple[CloneSpec, ...]
    networks: Mapping[str, str]
    head_cuts: tuple[int, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    method: Literal["cloning"] = "cloning"

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise UserError(f"classes: got {len(self.classes)}, expected at least one and at most {MAX_CLASSES:,}")
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes: the names of the outputs must differ")
        if len(self.clones) > MAX_CLONES:
            raise UserError(f"clones: got {len(self.clones)}, expected at most {MAX_CLONES:,}")
        check_networks({self.target, *(clone.network for clone in self.clones)}, self.networks)

    @property
    def cloned_classes(self) -> tuple[str, ...]:
        """Names of the classes that come from the sources, in the order of the clones."""
        return tuple(name for clone in self.clones for name in clone.classes)

    @property
    def composition(self) -> str:
        """For the reader, ``low + even{6,8}@3``: the target, and what is cloned into it at which position."""
        clones = (f"{clone.network}{{{','.join(clone.classes)}}}@{clone.position}" for clone in self.clones)
        return " + ".join([self.target, *clones])


def describe(network: ClonedNetwork, provenance: Sequence[Provenance] = ()) -> CloningBlueprint:
    """The blueprint of a cloned network, which holds all but what it has learnt."""
    specs = [
        CloneSpec(
            clone.source.name,
            clone.classes,
            clone.position,
            base64.b64encode(pack_gates(clone.gates)).decode(),
            adapter.kernel_size if isinstance(adapter, Adapter) else None,
            base64.b64encode(_packed_features(clone)).decode(),
        )
        for clone, adapter in zip(network.clones, network.adapters, strict=True)
    ]
    networks = {frozen.name: frozen.digest() for frozen in network.networks()}
    names = network.classes, network.target.name
    return CloningBlueprint(*names, tuple(specs), networks, network.head_cuts, tuple(provenance))


def build(
    blueprint: CloningBlueprint, load: Callable[[str], FrozenNetwork], *, check_digests: bool = True
) -> ClonedNetwork:
    """The cloned network with the closed-form head and random adapters, to be filled or fitted.

    Args:
        blueprint: What to build.
        load: Gives a network of the zoo by name.
        check_digests: Compare their weights with the blueprint's digests.

    Raises:
        UserError: A network of other weights than the blueprint's, gates or positions that do not fit it.
    """
    networks = {name: load(name) for name in blueprint.networks}
    for name, expected in blueprint.networks.items() if check_digests else ():
        check_digest(name, expected, networks[name].digest())
    target = networks[blueprint.target]
    clones = [_clone(spec, networks[spec.network]) for spec in blueprint.clones]
    classes, cuts = blueprint.classes, blueprint.head_cuts
    bare = ClonedNetwork(target, classes, clones, [None] * len(clones), cuts)  # checks positions first
    adapters = [
        new_adapter(target, clone, spec.kernel_size) if spec.kernel_size else None
        for clone, spec in zip(clones, blueprint.clones, strict=True)
    ]
    return ClonedNetwork(target, classes, clones, adapters, cuts) if any(adapters) else bare


def new_adapter(target: FrozenNetwork, clone: Clone, kernel_size: int) -> Adapter:
    """A random adapter between the target at the clone's position and the source at the same relative depth."""
    start = source_position(target, clone.source, clone.position)
    return Adapter(target.chain.signal(clone.position), clone.source.chain.signal(start), kernel_size=kernel_size)


def num_set(bits: str) -> int:
    """How many bits are 1, of gates that are open or features; what is not base64 has none."""
    try:
        packed = base64.b64decode(bits, validate=True)
    except (binascii.Error, ValueError):
        return 0
    return int.from_bytes(packed, "big").bit_count()


def _clone(spec: CloneSpec, source: FrozenNetwork) -> Clone:
    gates, selected = _bits(spec, "gates", num_gates(source.sites)), None
    if spec.features:
        selected = _bits(spec, "features", source.num_features).nonzero().flatten()
        if not len(selected):
            raise UserError(f"features of {spec.network!r}: none is selected; make the blueprint anew")
    return Clone(source, spec.classes, gates, spec.position, selected)


def _packed_features(clone: Clone) -> bytes:
    """The features that are selected as bits; nothing for all of them."""
    if clone.selected is None:
        return b""
    return pack_gates(torch.zeros(clone.source.num_features).index_fill(0, clone.selected, 1.0))


def _bits(spec: CloneSpec, name: str, expected: int) -> torch.Tensor:
    try:
        packed = base64.b64decode(getattr(spec, name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name} of {spec.network!r}: not base64 ({error}); make the blueprint anew") from error
    if len(packed) != -(-expected // 8):
        raise UserError(
            f"{name} of {spec.network!r}: {len(packed)} bytes, but its {expected} {name} need {-(-expected // 8)}; "
            "make the blueprint anew"
        )
    return unpack_gates(packed, expected)
