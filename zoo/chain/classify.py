"""Which modules of a network are atomic, and which of those are blocks: read off one observed forward, no tables."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from torch import nn

from zoo.chain.costs import num_params
from zoo.chain.observe import Call, Observation


@dataclass(frozen=True)
class Anatomy:
    """The modules that are never entered, in the order of their calls.

    Attributes:
        atomic: Qualified names.
        blocks: Those atomic modules that have parameters and a branch inside (residual, gate, parallel paths), or
            the same place in the network as one that has. Empty for a plain network.
    """

    atomic: tuple[str, ...]
    blocks: frozenset[str]


def classify(observation: Observation) -> Anatomy:
    """Find the atomic modules.

    A module is *transparent* if it is itself a chain: where weights lie on parallel ways, its children hold these ways.
    Transparent modules are entered where that leads to blocks; a module whose name differs from a
    block's only in its numbers is a block too (an inverted bottleneck without a shortcut among others with one).
    In a network without any branch, containers are entered down to their layers, and so is what holds most of the
    parameters. What merely wraps a network is entered like the network itself.
    """
    census = _Census(observation)
    root = census.unwrapped(observation.root)
    patterns: set[str] = set()
    while True:
        found = census.walk(root, patterns, plain=False)
        new = {_pattern(path) for path, is_block in found if is_block}
        new = {p for p in new if not any(p.startswith(q + ".") for q in new)} | patterns
        if new == patterns:
            break
        patterns = new
    if not patterns:
        found = census.walk(root, patterns, plain=True)
    return Anatomy(
        tuple(dict.fromkeys(path for path, _ in found)), frozenset(path for path, is_block in found if is_block)
    )


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "#", path)


class _Census:
    """Questions about the calls of one observation."""

    def __init__(self, observation: Observation) -> None:
        born, articulations = observation.flow.born, set(observation.flow.articulations)
        self.articulations = articulations
        self.parallel = {value: index for value, index in born.items() if value not in articulations}
        self.hidden = set(self._values_inside_leaves(observation.root))
        self.size = num_params(observation.root.module)
        self.borders = [born[value] for value in observation.flow.articulations]
        self.weighted = {self._stretch(index) for index in observation.weighted}

    def _stretch(self, index: int) -> int:
        """Which stretch between two articulations the operation lies in."""
        return bisect.bisect_left(self.borders, index)

    def _values_inside_leaves(self, call: Call) -> list[int]:
        """Values that only a module without children sees: how it computes is no branch of the network."""
        if call.children:
            return [value for child in call.children for value in self._values_inside_leaves(child)]
        return [v for v, index in self.parallel.items() if call.start <= index < call.stop and v not in call.outputs]

    def unwrapped(self, call: Call) -> Call:
        """The only child in series that holds all parameters, of that again the only one, and so on."""
        for child in self.series(call):
            if child.children and num_params(child.module) == self.size > 0:
                return self.unwrapped(child)
        return call

    def series(self, call: Call) -> list[Call]:
        """Children that make an articulation."""
        return [
            child
            for child in call.children
            if len(child.outputs) == 1
            and child.outputs[0] in self.articulations
            and child.outputs[0] not in child.inputs
        ]

    def is_transparent(self, call: Call) -> bool:
        series = self.series(call)
        inner = [child for child in series if child.outputs != call.outputs]
        wrapped = [child for child in series if child.inputs and child.inputs[:1] == call.inputs[:1]]
        if not inner and not wrapped:
            return False
        return all(
            any(child.start <= index < child.stop for child in series)
            for index in self.parallel.values()
            if call.start <= index < call.stop and self._stretch(index) in self.weighted
        )

    def has_branch(self, call: Call) -> bool:
        return (
            bool(call.children)
            and next(call.module.parameters(), None) is not None
            and any(
                call.start <= index < call.stop and value not in self.hidden for value, index in self.parallel.items()
            )
        )

    def is_gated(self, call: Call, below: list[tuple[str, bool]]) -> bool:
        """Whether the blocks found below are only its own small gate (squeeze-and-excitation): then it is the block."""
        paths = [path for path, is_block in below if is_block]
        own = {f"{call.path}.{name}": child for name, child in call.module.named_children() if not name.isdigit()}
        if not paths or not own.keys() >= set(paths):
            return False
        return 2 * sum(num_params(own[path]) for path in paths) < num_params(call.module)

    def walk(self, call: Call, patterns: set[str], plain: bool) -> list[tuple[str, bool]]:
        """Atomic modules below the call, each with whether it is a block."""
        found = []
        for child in self.series(call):
            is_container = isinstance(child.module, nn.Sequential)
            is_body = 2 * num_params(child.module) > self.size
            is_promoted = _pattern(child.path) in patterns and bool(child.children) and not is_container
            below = []
            if not is_promoted and self.is_transparent(child):
                below = self.walk(child, patterns, plain)
            if self.is_gated(child, below):
                found.append((child.path, True))
            elif any(is_block for _, is_block in below) or (below and plain and (is_container or is_body)):
                found += below
            else:
                found.append((child.path, is_promoted or self.has_branch(child)))
        return found
