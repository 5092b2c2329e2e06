"""Where a network has gates: read off one observed forward of every node of its chain, without per-model tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cloning.gates import GateSite
from zoo.chain import Chain
from zoo.chain.modes import meta_copy
from zoo.chain.observe import FlowRecorder, Op, Value, flow, tensors

AVERAGES = ("aten.mean", "aten.adaptive_avg_pool2d", "aten._adaptive_avg_pool2d")


def find_sites(chain: Chain) -> tuple[GateSite, ...]:
    """The gate sites of a chain's blocks, in the order of execution; stem, links between stages and head have none.

    In a block every convolution and linear layer makes units, except

    - a *shortcut*: it reads the block's input and writes its output with no other layer before or after it, while
      other layers of the block stand in series;
    - a *squeeze*: it reads nothing but averages over the whole grid (squeeze-and-excitation);
    - inside attention: the layers in front of the products of queries and keys; its heads are gated instead;
    - a linear layer whose result is added to the stream: there, hidden units are gated and not the stream.

    The site moves from the layer to the normalisations and activations behind it that nothing else reads; a module
    that runs more than once (one ReLU object for several places) is not moved to, its input is gated instead.
    """
    nodes = [(node.index, _watch(chain, node.index)) for node in chain.nodes if node.kind == "block"]
    times_called = Counter(call.path for _, node in nodes for call in node.calls)
    sites = []
    for index, node in nodes:
        sites += node.sites(index, times_called)
    return tuple(dict.fromkeys(sites))


@dataclass
class _Call:
    path: str
    module: nn.Module
    inputs: list[Value]
    start: int
    outputs: list[Value] | None = None
    stop: int = -1

    @property
    def is_layer(self) -> bool:
        return isinstance(self.module, (nn.modules.conv._ConvNd, nn.Linear))

    @property
    def has_layer(self) -> bool:
        return any(isinstance(m, (nn.modules.conv._ConvNd, nn.Linear)) for m in self.module.modules())

    def contains(self, other: _Call) -> bool:
        return self.start <= other.start and other.stop <= self.stop and self is not other


def _watch(chain: Chain, index: int) -> _ObservedNode:
    """One forward of a node on the meta device, with all calls of its modules."""
    node = meta_copy(chain.block(index, index + 1)).eval()
    recorder = FlowRecorder()
    paths = {module: path for path, module in node.named_modules()}
    open_calls: list[_Call] = []
    calls: list[_Call] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs = [recorder.value_of(tensor) for tensor in tensors((args, kwargs))]
        open_calls.append(_Call(paths[module], module, inputs, len(recorder.ops)))
        calls.append(open_calls[-1])

    def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        call = open_calls.pop()
        call.outputs, call.stop = [recorder.value_of(tensor) for tensor in tensors(output)], len(recorder.ops)

    for module in node.modules():
        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave, with_kwargs=True)
    x = torch.empty(chain.signal(index).shape(2), device="meta")
    with torch.no_grad(), torch.device("meta"), recorder:
        source = recorder.value_of(x)
        sink = recorder.value_of(node(x))
    return _ObservedNode(calls, recorder, source, sink)


@dataclass(frozen=True)
class _Step:
    """An operation, or all those of one layer together."""

    name: str
    inputs: Iterable[Value]
    outputs: Iterable[Value]
    num_layers: int = 0


def _steps(ops: Sequence[Op], layers: Sequence[_Call]) -> Iterator[_Step]:
    inside = {i: layer for layer in layers for i in range(layer.start, layer.stop)}
    for i, op in enumerate(ops):
        layer = inside.get(i)
        if layer is None:
            yield _Step(op.name, op.inputs, op.outputs)
        elif i == layer.stop - 1:
            yield _Step("layer", layer.inputs, layer.outputs, 1)


def _layers_before(steps: Sequence[_Step], source: Value) -> dict[Value, int]:
    """For each value, how many layers stand between the source and it, on the longest way."""
    counts = {source: 0}
    for step in steps:
        known = [counts[value] for value in step.inputs if value in counts]
        counts |= dict.fromkeys(step.outputs, max(known) + step.num_layers) if known else {}
    return counts


def _layers_after(steps: Sequence[_Step], sink: Value) -> dict[Value, int]:
    """For each value, how many layers stand between it and the sink, on the longest way."""
    counts = {sink: 0}
    for step in reversed(steps):
        known = [counts[value] for value in step.outputs if value in counts]
        for value in step.inputs if known else ():
            counts[value] = max(counts.get(value, 0), max(known) + step.num_layers)
    return counts


class _ObservedNode:
    """Questions about one observed node."""

    def __init__(self, calls: list[_Call], recorder: FlowRecorder, source: Value, sink: Value) -> None:
        self.reached = flow([(op.inputs, op.outputs) for op in recorder.ops], source, sink).reached
        self.calls = [call for call in calls if call.inputs[:1] and call.inputs[0] in self.reached]
        self.layers = [call for call in self.calls if call.is_layer]
        self.ops = recorder.ops
        self.shapes = {value: torch.Size(shape) for value, shape in recorder.shapes.items()}
        self.readers: dict[Value, list[int]] = {}
        for i, op in enumerate(self.ops):
            for value in op.inputs:
                self.readers.setdefault(value, []).append(i)
        steps = list(_steps(self.ops, self.layers))
        before, after = _layers_before(steps, source), _layers_after(steps, sink)
        self.before = {layer.path: before[layer.inputs[0]] for layer in self.layers}
        self.after = {layer.path: after[layer.outputs[0]] for layer in self.layers if layer.outputs[0] in after}
        self.depth = before[sink]
        self.squeezed = self._find_squeezed(steps)

    def _find_squeezed(self, steps: Sequence[_Step]) -> set[Value]:
        """The values that come from nothing but averages over the whole grid."""
        squeezed: set[Value] = set()
        for step in steps:
            known = self.reached.intersection(step.inputs)
            is_average = step.name in AVERAGES and all(map(self._is_vector, step.outputs))
            if known and (known <= squeezed or is_average):
                squeezed.update(step.outputs)
        return squeezed

    def _is_vector(self, value: Value) -> bool:
        """Whether the value has one number per image and channel."""
        shape = self.shapes[value]
        return len(shape) > 1 and shape.numel() == shape[0] * max(shape[1:])

    def sites(self, node: int, times_called: Counter[str]) -> Iterator[GateSite]:
        """The sites of the node, in the order of its layers."""
        attention = [(call, self._projection(call)) for call in self.calls]
        attention = [(call, projection) for call, projection in attention if projection is not None]
        heads = {projection.path: call.module.num_heads for call, projection in attention}
        for layer in self.layers:
            axis, shape = _axis(layer), self.shapes[layer.outputs[0]]
            if layer.path in heads:
                width = self.shapes[layer.inputs[0]][axis]
                yield GateSite(node, layer.path, "input", axis, heads[layer.path], width // heads[layer.path])
                continue
            is_shortcut = self.before[layer.path] == 0 == self.after.get(layer.path) and self.depth > 1
            if not (
                layer.path not in self.after
                or any(call.contains(layer) for call, _ in attention)
                or is_shortcut
                or layer.inputs[0] in self.squeezed
                or (isinstance(layer.module, nn.Linear) and self._is_added(layer.outputs[0]))
            ):
                yield GateSite(node, self._followed(layer, times_called), "output", axis, shape[axis])

    def _projection(self, call: _Call) -> _Call | None:
        """The output projection if the call is attention: the layer behind the products, in a module with heads."""
        heads = getattr(call.module, "num_heads", None)
        layers = [layer for layer in self.layers if call.contains(layer)]
        if not isinstance(heads, int) or not layers:
            return None
        last = layers[-1]
        products = [
            i for i in range(call.start, last.start) if "softmax" in self.ops[i].name or "attention" in self.ops[i].name
        ]
        width = self.shapes[last.inputs[0]][_axis(last)]
        behind = products and all(layer.stop <= products[-1] for layer in layers[:-1])
        return last if behind and width % heads == 0 else None

    def _is_added(self, value: Value) -> bool:
        """Whether the value meets another way through the node in an addition before any other layer reads it."""
        layer_ops = {i for layer in self.layers for i in range(layer.start, layer.stop)}
        pending, seen = [value], {value}
        while pending:
            for i in self.readers.get(pending.pop(), []):
                op = self.ops[i]
                others = set(op.inputs) & self.reached - seen
                if op.name.startswith("aten.add") and others:
                    return True
                new = [] if i in layer_ops else [output for output in op.outputs if output not in seen]
                seen.update(new)
                pending += new
        return False

    def _followed(self, layer: _Call, times_called: Counter[str]) -> str:
        """The last module of norms and activations behind the layer."""
        path, value, stop = layer.path, layer.outputs[0], layer.stop
        while True:
            readers = self.readers.get(value, [])
            behind = [
                call
                for call in self.calls
                if call.start >= stop
                and call.inputs == [value]
                and len(call.outputs) == 1
                and call.outputs != [value]
                and self.shapes[call.outputs[0]] == self.shapes[value]
                and all(call.start <= i < call.stop for i in readers)
                and not call.has_layer
                and times_called[call.path] == 1
            ]
            if not behind:
                return path
            path, value, stop = behind[0].path, behind[0].outputs[0], behind[0].stop


def _axis(layer: _Call) -> int:
    return -1 if isinstance(layer.module, nn.Linear) else 1
