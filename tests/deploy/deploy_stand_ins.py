"""Models of the embedded zoo that were never trained: what is done with them depends on no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from cloning.blueprint import describe, new_adapter
from cloning.bundle import to_bundle as cloned_bundle
from cloning.clone import Clone
from cloning.frozen import FrozenNetworks
from cloning.gates import num_gates
from cloning.network import ClonedNetwork
from deploy.model import Model, Origin
from reassembly.network import assemble
from reassembly.network import to_bundle as assembled_bundle
from tuning.network import TunableNetwork
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, Provenance, ReassemblyBlueprint, write_bundle
from zoo.chain import Chain
from zoo.digests import digest
from zoo.interface import Interface, interface_to_plain
from zoo.loading import load_chain
from zoo.registry import Zoo, read_zoo

DIGITS = tuple("0123456789")


@cache
def embedded() -> Zoo:
    return read_zoo("embedded")


@cache
def chain(name: str) -> Chain:
    return load_chain(embedded()[name])


def composed(front: str, tail: str, chains: Mapping[str, Chain], classes: tuple[str, ...] = DIGITS) -> TunableNetwork:
    """The first half of one network and the second half of another; of one network alone all of it."""
    ends = [len(chains[name]) - 1 for name in (front, tail)]
    halves = [end // 2 for end in ends]
    if front == tail:
        blocks, adapters = (BlockSpec(front, (0, ends[0])),), ()
    else:
        blocks = (BlockSpec(front, (0, halves[0])), BlockSpec(tail, (halves[1], ends[1])))
        adapters = (AdapterSpec("linear", 3, "random"),)
    networks = {name: digest(chains[name].network) for name in dict.fromkeys((front, tail))}
    blueprint = ReassemblyBlueprint(blocks, adapters, HeadSpec(classes), networks, Provenance(zoo="embedded"))
    return assemble(blueprint, chains)


def cloned(*positions: int) -> ClonedNetwork:
    """Ball knows 0 to 5; two networks of other families give it 6 to 9, at these positions."""
    networks = FrozenNetworks(embedded())
    target = networks("resnext_low")
    given = (("regnety_even", ("6", "8")), ("convnext_odd", ("7", "9")))
    clones, adapters = [], []
    for (name, classes), position in zip(given, positions, strict=False):
        source = networks(name)
        gates = (torch.arange(num_gates(source.sites)) % 3 > 0).float()
        clones.append(Clone(source, classes, gates, position))
        adapters.append(new_adapter(target, clones[-1], 3) if position else None)
    names = tuple("012345") + tuple(name for clone in clones for name in clone.classes)
    return ClonedNetwork(target, names, clones, adapters)


def model_of(network: TunableNetwork, zoo: Zoo | None = None) -> Model:
    """As ``deploy.load`` makes it, of a network in memory."""
    zoo = zoo or embedded()
    blueprint = describe(network) if isinstance(network, ClonedNetwork) else network.blueprint
    first = blueprint.target if isinstance(network, ClonedNetwork) else blueprint.blocks[0].network
    interface = Interface(zoo[first].input, tuple(network.class_names))
    origin = Origin("bundle", Path("memory"), Path("memory"), None, blueprint, None, zoo)
    return Model(network, interface, origin)


def save(network: TunableNetwork, directory: Path, *, complete: bool = False, interface: bool = True) -> Path:
    """Writes a bundle as train.py does, or as it did before there were interfaces."""
    model = model_of(network)
    if isinstance(network, ClonedNetwork):
        bundle = cloned_bundle(network, complete=complete)
    else:
        chains = {name: chain(name) for name in network.blueprint.networks}
        bundle = assembled_bundle(network, chains, complete=complete)
    if interface:
        networks = {name: embedded()[name] for name in bundle.blueprint.networks}
        bundle = replace(bundle, interface=interface_to_plain(replace(model.interface, networks=networks)))
    write_bundle(directory, bundle)
    return directory
