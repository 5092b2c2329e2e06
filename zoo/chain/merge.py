"""One program out of the recordings of a forward in training and in evaluation mode."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx

from zoo.chain.program import Program, Ref, Step, TrainingFlag, rebuild

ROOT = "network"
"""Name of the network in a recording, whose root merely calls it."""

KINDS = {"call_module": "module", "get_attr": "attribute", "call_function": "function", "call_method": "method"}


class Untraceable(Exception):
    """The forward cannot be recorded; the message says why."""


def _without_side_outputs(graph: fx.Graph) -> list[fx.Node]:
    """The nodes without those that only serve further outputs: auxiliary classifiers, which exist in training alone."""
    nodes = list(graph.nodes)
    outputs = nodes[-1].all_input_nodes
    if len(outputs) == 1 and inspect.isclass(outputs[0].target) and issubclass(outputs[0].target, tuple):
        outputs = [*outputs[0].all_input_nodes, outputs[0]]  # a named tuple is made in a step of its own
    if len(outputs) < 2:
        return nodes
    needed, *_ = reached = [_origins(output) for output in outputs]
    side = set().union(*reached) - needed
    return [n for n in nodes if n.op == "output" or not (n in side or side.intersection(n.all_input_nodes))]


def _origins(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    found, todo = set(), [node]
    while todo:
        if (current := todo.pop()) not in found:
            found.add(current)
            todo += current.all_input_nodes
    return found


def merge(graph: fx.Graph, training_graph: fx.Graph) -> Program:
    """One program for both modes: where a constant is ``False`` in one and ``True`` in the other, it is the mode."""
    nodes, others = list(graph.nodes), _without_side_outputs(training_graph)
    if [(n.op, n.target) for n in nodes] != [(n.op, n.target) for n in others]:
        raise Untraceable("its forward takes another way in training mode")
    steps = []
    for node, other in zip(nodes, others, strict=True):
        if node.op in KINDS:
            target = node.target
            if node.op in ("call_module", "get_attr"):
                if not target.startswith(ROOT + "."):
                    raise Untraceable("it computes with a constant tensor that is neither a parameter nor a buffer")
                target = target.removeprefix(ROOT + ".")
            args = tuple(_argument(a, b) for a, b in zip(node.args, other.args, strict=True))
            kwargs = {key: _argument(node.kwargs[key], other.kwargs[key]) for key in node.kwargs}
            steps.append(Step(node.name, KINDS[node.op], target, args, kwargs))
    result = nodes[-1].args[0]
    if not isinstance(result, fx.Node):
        raise Untraceable("it returns no single tensor")
    return Program(tuple(steps), nodes[0].name, result.name)


def _argument(argument: Any, other: Any) -> Any:
    if isinstance(argument, fx.Node):
        return Ref(argument.name)
    if argument is False and other is True:
        return TrainingFlag()
    if isinstance(argument, (tuple, list, dict, slice)):
        parts = iter(_parts(other))
        plain = (
            list(argument) if isinstance(argument, list) else dict(argument) if isinstance(argument, dict) else argument
        )
        return rebuild(plain, lambda item: _argument(item, next(parts)))
    if argument != other:
        raise Untraceable("its forward computes with other numbers in training mode")
    return argument


def _parts(argument: Any) -> list:
    if isinstance(argument, slice):
        return [argument.start, argument.stop, argument.step]
    return list(argument.values()) if isinstance(argument, dict) else list(argument)
