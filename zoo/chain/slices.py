"""Cutting a program: which steps lie between two cuts, and how sizes that cross a cut are found again behind it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import nn

from zoo.chain.layouts import Shapes, infer_signals
from zoo.chain.observe import flow
from zoo.chain.program import Program, Ref, Step, get_attribute, rebuild
from zoo.chain.signals import Signal, grid_of
from zoo.chain.trace import require


class Leak(Exception):
    """Something besides the tensor at a cut is needed behind it."""


@dataclass(frozen=True)
class Scaled:
    """An integer that grows with the tensor at a cut: a factor times the product of some of its dimensions."""

    dimensions: tuple[str, ...]
    factor: Fraction


@dataclass(frozen=True)
class DeviceOf:
    """The device of the tensor at a cut."""


def rederive(x: torch.Tensor, signal: Signal, recipe: Any) -> Any:
    """Sizes that the network computed in front of a cut, computed again from the tensor at the cut."""
    if isinstance(recipe, DeviceOf):
        return x.device
    if isinstance(recipe, Scaled):
        dimensions = _dimensions(x.shape, grid_of(x, signal) if signal.grid else None)
        value = recipe.factor.numerator  # no fraction: when exported, the batch is a symbol
        for name in recipe.dimensions:
            value *= dimensions[name]
        return value // recipe.factor.denominator
    return rebuild(recipe, lambda item: rederive(x, signal, item))


def _dimensions(shape: tuple[int, ...], grid: tuple[int, int] | None) -> dict[str, int]:
    height, width = grid or (1, 1)
    return {"batch": shape[0], "height": height, "width": width}


PRODUCTS = (
    ("batch",),
    ("height",),
    ("width",),
    ("height", "width"),
    ("batch", "height"),
    ("batch", "width"),
    ("batch", "height", "width"),
)


class Slicer:
    """All ways of cutting one program.

    Args:
        program: The whole forward.
        network: It belongs to, on any device.
        native: A run of the program.
        other: A run with another batch and perhaps another size, if there is one.
        source: The program's input.
    """

    def __init__(
        self, program: Program, network: nn.Module, native: Shapes, other: Shapes | None, source: Signal
    ) -> None:
        self.program = program
        self.network = network
        self.native = native
        self.other = other
        self.signals = infer_signals(native, other, source)
        self.other_signals = infer_signals(other, native, _resized(source, other)) if other else {}
        self.steps = {step.name: step for step in program.steps}
        self.position = {program.input: -1} | {step.name: index for index, step in enumerate(program.steps)}
        tensor_steps = [step for step in program.steps if step.name in native.holds_tensor]
        ops = [([n for n in step.inputs if n in native.holds_tensor], [step.name]) for step in tensor_steps]
        self.flow = flow(ops, program.input, program.output)
        self._states: dict[tuple, frozenset[int]] = {}

    @cached_property
    def cuts(self) -> list[str]:
        """In order, the names of the steps after which the program can be cut; first the input, last the output."""
        inner = [name for name in self.flow.articulations[1:-1] if name in self.signals and self._separates(name)]
        return [self.program.input, *inner, self.program.output]

    def _separates(self, cut: str) -> bool:
        """Whether both sides of the cut run on their own and share no state."""
        try:
            before, after = self.slice(self.program.input, cut), self.slice(cut, self.program.output)
        except Leak:
            return False
        return not self.state(before) & self.state(after)

    def state(self, program: Program) -> set[int]:
        """Identities of the parameters and of the persistent buffers of called modules."""
        return set().union(*(self._state_of(step) for step in program.steps))

    def _state_of(self, step: Step) -> frozenset[int]:
        """The same of one step; every cut asks for all of them."""
        key = (step.kind, step.target)
        if key not in self._states:
            self._states[key] = frozenset(self._find_state(step))
        return self._states[key]

    def _find_state(self, step: Step) -> Iterator[int]:
        if step.kind == "module":
            module = self.network.get_submodule(step.target)
            yield from map(id, module.parameters())
            for m in module.modules():
                yield from (id(b) for n, b in m._buffers.items() if n not in m._non_persistent_buffers_set)
        elif step.kind == "attribute":
            value = get_attribute(self.network, step.target)
            if isinstance(value, nn.Parameter):
                yield id(value)

    def regions(self, cuts: list[str]) -> dict[str, int]:
        """For every step that depends on the input the index of the piece between two cuts in which it runs.

        Steps without effect on the output (guards, in-place operations whose result is ignored) run as soon as what
        they read is there.
        """
        ends = [self.position[cut] for cut in cuts[1:]]
        regions = {self.program.input: 0}
        for index, step in enumerate(self.program.steps):
            if step.name in self.flow.born:
                regions[step.name] = bisect.bisect_left(ends, index)
            else:
                origins = [regions[name] for name in step.inputs if name in regions]
                if origins:
                    regions[step.name] = max(origins)
        return regions

    def slice(self, start: str, end: str) -> Program:
        """The program from one cut to a later one.

        Raises:
            Leak: it needs more than the tensor at the first cut.
        """
        if start == end:
            return Program((), start, end)
        cuts = list(dict.fromkeys([self.program.input, start, end, self.program.output]))
        regions = self.regions(cuts)
        here = cuts.index(start)
        inside = {name for name, region in regions.items() if region == here and name in self.steps}
        todo = [name for name in inside if self._must_run(name)]
        chosen: dict[str, Step] = {}
        while todo:
            name = todo.pop()
            if name in chosen or name == start:
                continue
            if name == self.program.input:
                raise Leak(name)
            step = self.steps[name]
            if name in regions and name not in inside:
                step = self._behind(step, start)
            chosen[name] = step
            todo += step.inputs
        steps = [chosen[name] for name in sorted(chosen, key=self.position.__getitem__)]
        return Program(tuple(steps), start, end)

    def _behind(self, step: Step, cut: str) -> Step:
        """A step from before the cut whose value is needed behind it: a size is found again, as late as possible."""
        if step.name in self.flow.reached:
            raise Leak(step.name)
        sources = self.flow.reached.intersection(step.inputs)
        if sources == {cut} or step.name in self.native.holds_tensor:
            return step
        try:
            return self._rederived(step.name, cut)
        except Leak:
            if sources:
                raise
            return step

    def _must_run(self, name: str) -> bool:
        """Live steps, guards, and steps that may write in place; the rest runs where it is needed."""
        if name in self.flow.born:
            return True
        step = self.steps[name]
        is_guard = step.target is require or getattr(step.target, "__name__", "") == "_assert"
        return is_guard or (name in self.flow.reached and name not in self._read)

    @cached_property
    def _read(self) -> set[str]:
        return {name for step in self.program.steps for name in step.inputs}

    def _rederived(self, name: str, cut: str) -> Step:
        """The same value, found again from the tensor at the cut."""
        if self.other is None or cut not in self.other_signals:
            raise Leak(name)
        before = _dimensions(self.native.values[cut], self.signals[cut].grid)
        after = _dimensions(self.other.values[cut], self.other_signals[cut].grid)
        recipe = _recipe(self.native.values[name], self.other.values[name], before, after)
        return Step(name, "function", rederive, (Ref(cut), self.signals[cut], recipe))


def _resized(source: Signal, run: Shapes) -> Signal:
    """The source as it was in another run."""
    if source.layout != "NCHW":
        return source
    grid = run.input_shape[2:]
    return replace(source, grid=grid)


def _recipe(value: Any, other: Any, before: dict[str, int], after: dict[str, int]) -> Any:
    """What the value is in terms of the dimensions, given both in two runs."""
    if isinstance(value, torch.device):
        return DeviceOf()
    if isinstance(value, (tuple, list)) and len(value) == len(other):
        return tuple(_recipe(a, b, before, after) for a, b in zip(value, other, strict=True))
    if value == other:
        return value
    if isinstance(value, int):
        for names in PRODUCTS:
            first, second = (math.prod(dimensions[name] for name in names) for dimensions in (before, after))
            if value * second == other * first:
                return Scaled(names, Fraction(value, first))
    raise Leak(value)
