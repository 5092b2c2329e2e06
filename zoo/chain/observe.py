"""Watching one forward on the meta device: which value flows where, and through which values everything flows.

A *value* is a number for the content of a tensor at one time: an in-place operation gives every alias of the
mutated storage a new value. Constants (parameters, position embeddings, sizes) are no flow; only what depends on
the network's input is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.chain.modes import meta_pass, tensors

Value = int
V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True)
class Op:
    """One operation: its name, and the values it read (in the order of its arguments) and made."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass
class Call:
    """One call of a module: what went in and out, and which operations (``start`` up to ``stop``) ran inside.

    Of what it returns, only values that lead to the network's output outside of it count; a list that another module is
    given as a whole counts with all it holds.
    """

    path: str
    module: nn.Module
    inputs: list[Value]
    start: int
    outputs: list[Value] = field(default_factory=list)
    stop: int = -1
    is_handed_on: bool = False
    children: list[Call] = field(default_factory=list)


class FlowRecorder(TorchDispatchMode):
    """Records every operation while active."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.shapes: dict[Value, tuple[int, ...]] = {}
        self._current: dict[int, Value] = {}
        self._aliases: dict[int, list[torch.Tensor]] = {}  # by storage; also keeps tensors alive, so ids stay unique

    def value_of(self, tensor: torch.Tensor) -> Value:
        """The value that the tensor holds now."""
        if id(tensor) not in self._current:
            self._aliases.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
            self._renew(tensor)
        return self._current[id(tensor)]

    def _renew(self, tensor: torch.Tensor) -> Value:
        value = len(self.shapes)
        self._current[id(tensor)] = value
        self.shapes[value] = tuple(tensor.shape)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = [self.value_of(tensor) for tensor in tensors((args, kwargs))]
        out = func(*args, **kwargs)
        outputs = []
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for mutated in tensors(args[position] if position < len(args) else kwargs.get(argument.name)):
                for alias in self._aliases[mutated.untyped_storage()._cdata]:
                    inputs.append(self.value_of(alias))
                    outputs.append(self._renew(alias))
        outputs += [self.value_of(tensor) for tensor in tensors(out)]
        self.ops.append(Op(str(func._overloadpacket), tuple(inputs), tuple(dict.fromkeys(outputs))))
        return out


@dataclass(frozen=True)
class Flow:
    """The values on some way from source to sink, and the ones through which every way goes.

    Attributes:
        born: Index of the operation that made each value on a way; -1 for the source.
        articulations: In order, the values that are alone on the way when they are made.
        reached: All values that depend on the source, on a way to the sink or not.
        last_read: Index of the last operation on a way that reads a value; for the sink, the number of operations.
    """

    born: dict[Any, int]
    articulations: list[Any]
    reached: set[Any]
    last_read: dict[Any, int]


def flow(ops: Sequence[tuple[Iterable[V], Iterable[V]]], source: V, sink: V) -> Flow:
    """One sweep over the operations (inputs, outputs) in the order in which they ran.

    A value is an articulation if no earlier value is read after it was made (the exact dominators of the sink).
    """
    reached = {source}
    for inputs, outputs in ops:
        if reached.intersection(inputs):
            reached.update(outputs)
    wanted = {sink}
    for inputs, outputs in reversed(ops):
        if wanted.intersection(outputs):
            wanted.update(value for value in inputs if value in reached)
    live = wanted & reached

    last_read: dict[V, int] = {}
    born: dict[V, int] = {source: -1}
    for index, (inputs, outputs) in enumerate(ops):
        if live.intersection(outputs):
            last_read.update((value, index) for value in inputs)
        for value in outputs:
            if value in live:
                born.setdefault(value, index)
    last_read[sink] = len(ops)
    siblings: dict[int, list[V]] = {}
    for value, index in born.items():
        siblings.setdefault(index, []).append(value)
    articulations, horizon = [], -1
    for index, values in sorted(siblings.items()):
        if len(values) == 1 and horizon <= index:
            articulations.append(values[0])
        horizon = max([horizon, *(last_read.get(value, -1) for value in values)])
    return Flow(born, articulations, reached, last_read)


@dataclass(frozen=True)
class Observation:
    """One forward: the tree of module calls, the flow between their values, and which operations read parameters."""

    root: Call
    flow: Flow
    weighted: list[int]


def observe(network: nn.Module, x: torch.Tensor) -> Observation | Any:
    """Run the network once and watch; its output itself if that is not one tensor.

    Args:
        network: A network whose hooks are ours to add and remove, on the meta device, in evaluation mode.
        x: Its input, on the meta device.
    """
    recorder = FlowRecorder()
    paths = {module: path for path, module in network.named_modules()}
    stack: list[Call] = []
    done: list[Call] = []
    returned: dict[int, tuple[list, list[Call]]] = {}  # by identity, which the reference to the list keeps unique

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs = [recorder.value_of(tensor) for tensor in tensors((args, kwargs))]
        call = Call(paths.get(module, ""), module, inputs, len(recorder.ops))
        for argument in (*args, *kwargs.values()):
            for giver in returned.get(id(argument), ([], []))[1]:
                giver.is_handed_on = True
        if stack:
            stack[-1].children.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        call = stack.pop()
        call.outputs = [recorder.value_of(tensor) for tensor in tensors(output)]
        call.stop = len(recorder.ops)
        if isinstance(output, list):
            returned.setdefault(id(output), (output, []))[1].append(call)
        done.append(call)

    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with meta_pass(), recorder:
            source = recorder.value_of(x)
            output = network(x)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, torch.Tensor):
        return output
    way = flow([(op.inputs, op.outputs) for op in recorder.ops], source, recorder.value_of(output))
    for call in done:
        if not call.is_handed_on:
            call.outputs = [value for value in dict.fromkeys(call.outputs) if way.last_read.get(value, -1) >= call.stop]
    parameters = {recorder.value_of(parameter) for parameter in network.parameters()}
    weighted = [index for index, op in enumerate(recorder.ops) if parameters.intersection(op.inputs)]
    return Observation(done[-1], way, weighted)
