"""A forward as data: a list of steps, each a module call or a piece of glue between modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Values = dict[str, Any]


@dataclass(frozen=True)
class Ref:
    """Stands in a step's arguments for the value of an earlier step."""

    name: str


@dataclass(frozen=True)
class TrainingFlag:
    """Stands in a step's arguments for whether the network is in training mode."""


@dataclass(frozen=True)
class Step:
    """One step; its value is known to later steps by its name.

    Attributes:
        name: Unique in the program.
        kind: ``module`` (call the submodule ``target``), ``attribute`` (read the parameter or buffer ``target``),
            ``function`` (call ``target``) or ``method`` (of the first argument).
        target: A qualified name, a function, or a method's name.
        args: Positional arguments, nested; `Ref` and `TrainingFlag` are filled in when the step runs.
        kwargs: The same by name.
    """

    name: str
    kind: str
    target: str | Callable
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the steps whose values this one reads."""
        return tuple(dict.fromkeys(_refs((self.args, self.kwargs))))

    def run(self, root: nn.Module, values: Values) -> Any:
        """The step's value.

        Args:
            root: Holds the submodules and parameters under their qualified names, and the mode.
            values: Of the steps before, by name.
        """
        if self.kind == "attribute":
            return get_attribute(root, self.target)
        args = _fill(self.args, root, values)
        kwargs = {key: _fill(value, root, values) for key, value in self.kwargs.items()}
        if self.kind == "module":
            return root.get_submodule(self.target)(*args, **kwargs)
        if self.kind == "method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


@dataclass(frozen=True)
class Program:
    """Steps in the order in which they run, from the input's name to the output's."""

    steps: tuple[Step, ...]
    input: str
    output: str

    def run(self, root: nn.Module, x: torch.Tensor) -> Iterator[tuple[Step, Any]]:
        """Every step with its value, in order; nothing is forgotten on the way."""
        values = {self.input: x}
        for step in self.steps:
            values[step.name] = step.run(root, values)
            yield step, values[step.name]


def get_attribute(root: nn.Module, target: str) -> Any:
    """The attribute with this qualified name."""
    owner, _, attribute = target.rpartition(".")
    return getattr(root.get_submodule(owner), attribute)


def _fill(argument: Any, root: nn.Module, values: Values) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, TrainingFlag):
        return root.training
    return rebuild(argument, lambda item: _fill(item, root, values))


def rebuild(argument: Any, convert: Callable[[Any], Any]) -> Any:
    """Apply a function to what a container of arguments holds; everything else is a constant."""
    if isinstance(argument, slice):
        return slice(convert(argument.start), convert(argument.stop), convert(argument.step))
    if isinstance(argument, tuple) and hasattr(argument, "_fields"):
        return type(argument)(*map(convert, argument))
    if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
        return type(argument)(map(convert, argument))
    if isinstance(argument, dict):
        return {key: convert(value) for key, value in argument.items()}
    return argument


def _refs(argument: Any) -> list[str]:
    found: list[str] = []

    def collect(item: Any) -> None:
        if isinstance(item, Ref):
            found.append(item.name)
        else:
            rebuild(item, collect)

    collect(argument)
    return found


class Block(nn.Module):
    """A slice of a network's forward that owns exactly its own parameters, under their original qualified names.

    A fresh block shares its modules with the network it was cut from; ``copy.deepcopy`` it before changing it.

    Args:
        network: Where the modules, parameters and buffers come from; it is not changed.
        program: What to run.
        clone_input: Whether the first step would write into the input, which is the caller's.
    """

    def __init__(self, network: nn.Module, program: Program, clone_input: bool = False) -> None:
        super().__init__()
        self._program = program
        self._clone_input = clone_input
        self._last_reads = _last_reads(program)
        self.training = network.training
        called = {network.get_submodule(step.target) for step in program.steps if step.kind == "module"}
        owned = {module for caller in called for module in caller.modules()}
        for path, module in network.named_modules(remove_duplicate=False):
            if module in owned:  # also where it is registered under a second name
                _graft_module(self, network, path)
        for target in sorted({step.target for step in program.steps if step.kind == "attribute"}):
            _graft_attribute(self, network, target)

    @property
    def program(self) -> Program:
        """What it runs."""
        return self._program

    def nodes(self) -> list[nn.Module]:
        """The modules that it calls, each once, in order: the indivisible parts of the network."""
        steps = [step.target for step in self._program.steps if step.kind == "module"]
        return list(dict.fromkeys(map(self.get_submodule, steps)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self._program.input: x.clone() if self._clone_input else x}
        for step, last_reads in zip(self._program.steps, self._last_reads, strict=True):
            values[step.name] = step.run(self, values)
            for name in last_reads:
                del values[name]
        return values[self._program.output]


def _last_reads(program: Program) -> tuple[tuple[str, ...], ...]:
    """For each step the values nobody reads after it, so that a block holds no more memory than the original."""
    kept, last_reads = {program.output}, []
    for step in reversed(program.steps):
        names = {step.name, *step.inputs} - kept
        kept |= names
        last_reads.append(tuple(names))
    return tuple(reversed(last_reads))


def _container(block: nn.Module, network: nn.Module, path: str) -> nn.Module:
    """The module at the path in the block: a bare container in the network's mode where there is none yet."""
    for depth in range(1, path.count(".") + 2 if path else 1):
        prefix = ".".join(path.split(".")[:depth])
        parent, _, name = prefix.rpartition(".")
        owner = block.get_submodule(parent)
        if name not in owner._modules:
            owner.add_module(name, nn.Module())
            owner._modules[name].training = network.get_submodule(prefix).training
    return block.get_submodule(path)


def _has(block: nn.Module, path: str) -> bool:
    """Whether a grafted module already brought this module or attribute."""
    for name in path.split("."):
        if not hasattr(block, name):
            return False
        block = getattr(block, name)
    return True


def _graft_module(block: nn.Module, network: nn.Module, target: str) -> None:
    if not _has(block, target):
        parent, _, name = target.rpartition(".")
        _container(block, network, parent).add_module(name, network.get_submodule(target))


def _graft_attribute(block: nn.Module, network: nn.Module, target: str) -> None:
    if _has(block, target):
        return
    parent, _, name = target.rpartition(".")
    owner, source = _container(block, network, parent), network.get_submodule(parent)
    value = getattr(source, name)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    elif name in source._buffers:
        owner.register_buffer(name, value, persistent=name not in source._non_persistent_buffers_set)
    else:
        setattr(owner, name, value)
