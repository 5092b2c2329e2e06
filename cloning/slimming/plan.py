"""Which channels can go for given gates: the most that changes no output, in whole groups of convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloning.gates import GateSite, split_gates
from cloning.slimming.units import Layer, NetworkUnits


@dataclass(frozen=True)
class LayerCut:
    """What stays of a layer: (C_in,) and (C_out,) of bool, and which groups (n,) of bool."""

    inputs: Tensor
    outputs: Tensor
    groups: Tensor


@dataclass(frozen=True)
class SiteCut:
    """What the module at a site does: its channels, out of those in front of it; -1 makes zeros.

    Attributes:
        source: (channels behind,) index of each in the channels that are in front.
        num_before: How many these are.
        heads: Gates of which anything is left.
    """

    source: Tensor
    num_before: int
    heads: int

    @property
    def is_identity(self) -> bool:
        """Whether it hands on what it gets."""
        return torch.equal(self.source, torch.arange(self.num_before))


@dataclass(frozen=True)
class Plan:
    """What stays of a network from a cut on: of layers and parameters by qualified name, of sites by their index."""

    layers: dict[str, LayerCut]
    parameters: dict[str, tuple[int, Tensor]]
    sites: dict[int, SiteCut]


def plan_cut(
    units: NetworkUnits,
    sites: Sequence[GateSite],
    gates: Tensor,
    start: int,
    classifier: str,
    left_out: Iterable[int] = (),
) -> Plan:
    """The plan for the nodes from ``start`` on.

    A set of tied units goes if whatever reads it reads zeros: every layer behind a closed gate, and every site that it
    ends at is closed. Grouped convolutions keep as many channels in each of their groups as the one with the most.

    Args:
        units: Of the whole network.
        sites: Its sites.
        gates: (n,) of 0 and 1.
        start: The cut at which the slim network begins; what crosses it keeps its width.
        classifier: Qualified name of the last layer, which is not part of it; what it reads keeps its width.
        left_out: Indices of sites around which nothing is cut.
    """
    return _Planner(units, sites, gates > 0.5, start, classifier, left_out).plan()


class _Planner:
    def __init__(
        self,
        units: NetworkUnits,
        sites: Sequence[GateSite],
        is_open: Tensor,
        start: int,
        classifier: str,
        left_out: Iterable[int],
    ) -> None:
        self.units, self.sites, self.start = units, sites, start
        ties = units.ties
        self.find = ties.find
        self.open_by_site = split_gates(is_open, sites)
        self.is_open = [True, *is_open.tolist()]
        self.layers = {path: layer for path, layer in units.layers.items() if layer.node >= start}
        kept = self._roots(self.layers.pop(classifier).inputs)
        kept |= self._roots(units.cuts[start - 1].long()) if start else set()
        for index in left_out:
            if (found := units.sites[index]) is not None:
                kept |= self._roots(found.before) | self._roots(found.after)
        self.kept = ties.kept | kept
        self.ins = {path: [self._root(u) for u in layer.inputs.tolist()] for path, layer in self.layers.items()}
        self.outs = {path: [self._root(u) for u in layer.outputs.tolist()] for path, layer in self.layers.items()}

    def _root(self, unit: int) -> int:
        return self.find(unit) if unit > 0 else 0

    def _roots(self, tags: Tensor) -> set[int]:
        return {self.find(unit) for unit in tags.tolist() if unit > 0}

    def plan(self) -> Plan:
        dropped = self._droppable(set())
        while True:  # what nothing reads any more may go, too
            more = self._droppable(dropped)
            if more == dropped:
                break
            dropped = more
        while back := self._needed_back(dropped):
            dropped -= back
        parameters = self._parameter_cuts(dropped)
        layers = {}
        for path, layer in self.layers.items():
            inputs, outputs = (
                torch.tensor([root not in dropped for root in roots]) for roots in (self.ins[path], self.outs[path])
            )
            layers[path] = LayerCut(inputs, outputs, outputs.view(layer.groups, -1).any(1))
        return Plan(layers, parameters, self._site_cuts(dropped))

    def _droppable(self, dropped: set[int]) -> set[int]:
        """The sets that may go, given those that go anyway."""
        candidates, needed = set(), set(self.kept) | {0}
        for path, layer in self.layers.items():
            candidates.update(self.outs[path])
            candidates.update(self.ins[path])
            per_group = len(self.ins[path]) // layer.groups
            outs = self.outs[path]
            out_per_group = len(outs) // layer.groups
            if layer.is_depthwise:
                continue
            for k, (root, gate) in enumerate(zip(self.ins[path], layer.gates.tolist(), strict=True)):
                group = k // per_group
                is_void = layer.groups > 1 and all(
                    out in dropped for out in outs[group * out_per_group : (group + 1) * out_per_group]
                )
                if not is_void and (not gate or self.is_open[gate]):
                    needed.add(root)
        number = 1
        for site, found in zip(self.sites, self.units.sites, strict=True):
            if found is not None and site.node >= self.start:
                tags = (found.before.tolist(), found.gates.tolist(), found.after.tolist())
                for k, (unit, gate, after) in enumerate(zip(*tags, strict=True)):
                    is_zero = gate > 0 and not self.is_open[gate]
                    is_void = self._root(after) in dropped
                    if self.is_open[number + k // site.group_size] and not is_zero and not is_void:
                        needed.add(self._root(unit))
            number += site.num_gates
        return candidates - needed

    def _needed_back(self, dropped: set[int]) -> set[int]:
        """Sets that have to come back, so that no layer is left without channels and all groups are of one size."""
        for path, layer in self.layers.items():
            for roots in (self.ins[path], self.outs[path]):
                if all(root in dropped for root in roots):
                    return {roots[0]}
            is_grouped = layer.groups > 1 and not layer.is_depthwise
            if is_grouped and (back := self._uneven(layer, self.ins[path], self.outs[path], dropped)):
                return back
        for drops, path in self._drops_of_parameters(dropped):
            if _dimension(drops) is None:  # no slices: all of it stays
                first, shape = self.units.parameters[path]
                return {self.find(first + k) for k in range(shape.numel())} & dropped
        return set()

    def _uneven(self, layer: Layer, ins: Sequence[int], outs: Sequence[int], dropped: set[int]) -> set[int]:
        """The first missing channels of groups that are smaller than the largest; groups without any go."""
        sides = [
            [side[k * (len(side) // layer.groups) : (k + 1) * (len(side) // layer.groups)] for k in range(layer.groups)]
            for side in (ins, outs)
        ]
        counts = [[sum(root not in dropped for root in part) for part in side] for side in sides]
        alive = [any(pair) for pair in zip(*counts, strict=True)]
        back: set[int] = set()
        for side, count in zip(sides, counts, strict=True):
            most = max(count)
            for part, n, is_alive in zip(side, count, alive, strict=True):
                if is_alive and n < most:
                    back.add(next(root for root in part if root in dropped))
        return back

    def _drops_of_parameters(self, dropped: set[int]) -> Iterable[tuple[Tensor, str]]:
        for path, (first, shape) in self.units.parameters.items():
            if self.units.nodes[path] >= self.start:
                n = shape.numel()
                drops = torch.tensor([self.find(first + k) in dropped for k in range(n)], dtype=torch.bool).view(shape)
                if drops.any():
                    yield drops, path

    def _parameter_cuts(self, dropped: set[int]) -> dict[str, tuple[int, Tensor]]:
        cuts = {}
        for drops, path in self._drops_of_parameters(dropped):
            dim = _dimension(drops)
            kept = ~drops.movedim(dim, 0).flatten(1).all(1) if drops.ndim > 1 else ~drops
            cuts[path] = (dim, kept)
        return cuts

    def _site_cuts(self, dropped: set[int]) -> dict[int, SiteCut]:
        cuts = {}
        for index, (site, found) in enumerate(zip(self.sites, self.units.sites, strict=True)):
            if found is None or site.node < self.start:
                continue
            is_open = self.open_by_site[index].repeat_interleave(site.group_size)
            before, after = (
                torch.tensor([self._root(unit) not in dropped for unit in tags.tolist()])
                for tags in (found.before, found.after)
            )
            places = torch.where(before & is_open, before.cumsum(0) - 1, -1)
            heads = before.view(site.num_gates, -1).any(1).sum()
            cuts[index] = SiteCut(places[after], int(before.sum()), int(heads))
        return cuts


def _dimension(drops: Tensor) -> int | None:
    """The dimension along which whole slices of a parameter go."""
    for dim in range(drops.ndim):
        slices = drops.movedim(dim, 0).reshape(drops.shape[dim], -1)
        if bool((slices.all(1) == slices.any(1)).all()):
            return dim
    return None
