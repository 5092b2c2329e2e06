"""What lies between a chain's last block and its classifier: final norm and pooling, found by looking into the head."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from zoo.chain.layouts import Shapes, propagate, propagate_resized
from zoo.chain.merge import Untraceable
from zoo.chain.program import Block, Program, Ref, Step, get_attribute
from zoo.chain.signals import Signal, pool
from zoo.chain.slices import Slicer
from zoo.chain.trace import trace

NORMS = (F.layer_norm, F.batch_norm, F.group_norm, torch.layer_norm, torch.batch_norm, torch.group_norm)


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether the parameter mixes channels (or positions); norms, scales and biases have at most one long axis."""
    return sum(size > 1 for size in parameter.shape) > 1


def is_weighted(step: Step, program: Program, network: nn.Module) -> bool:
    """Whether the step multiplies by a weight matrix or a kernel."""
    if step.kind == "module":
        return any(map(is_matrix, network.get_submodule(step.target).parameters()))
    attributes = {s.name: s.target for s in program.steps if s.kind == "attribute"}
    values = [get_attribute(network, attributes[name]) for name in step.inputs if name in attributes]
    return any(isinstance(value, nn.Parameter) and is_matrix(value) for value in values)


def neck_program(head: Block, signal: Signal) -> Program:
    """The part of the head that feeds its first weighted layer, as (N, d).

    That is the original norm, pooling, activation, reshaping and dropout in front of the classifier. Where something
    else comes first (a convolution before the pooling, attention pooling, another class token), it is what precedes
    that, followed by the mean over the grid.

    Args:
        head: The head node, on the meta device.
        signal: Its input.
    """
    shape = signal.shape(2)
    x = torch.empty(shape, device="meta")
    try:
        program = trace(head, _is_layer, x)
    except Untraceable:
        program = head.program
    native = propagate(program, head, shape)
    slicer = Slicer(program, head, native, propagate_resized(program, head, native), signal)
    feed = _classifier_input(slicer, native)
    if feed is None:
        feed = _last_common_value(slicer)
    rest = slicer.slice(program.input, feed)
    if len(native.values[feed]) == 2:
        return rest
    pooled = Step("pooled", "function", pool, (Ref(feed), slicer.signals[feed]))
    return Program((*rest.steps, pooled), rest.input, "pooled")


def _is_layer(path: str, module: nn.Module) -> bool:
    is_builtin = type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential)
    return is_builtin or next(module.children(), None) is None


def _first_weighted(slicer: Slicer) -> Step | None:
    reached = slicer.flow.reached
    return next(
        (
            step
            for step in slicer.program.steps
            if reached.intersection(step.inputs) and is_weighted(step, slicer.program, slicer.network)
        ),
        None,
    )


def _classifier_input(slicer: Slicer, native: Shapes) -> str | None:
    """What the first weighted layer reads, if that is one vector per image made of the features alone."""
    weighted = _first_weighted(slicer)
    if weighted is None:
        feed = slicer.program.output
    else:
        feed = next(name for name in weighted.inputs if name in slicer.flow.reached)
    shape = native.values[feed]
    if not (isinstance(shape, tuple) and len(shape) == 2):
        return None
    steps = {step.name: step for step in slicer.program.steps}
    todo, seen = [feed], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in steps:
            continue
        seen.add(name)
        for source in steps[name].inputs:
            if source in steps and steps[source].kind == "attribute" and steps[name].target not in NORMS:
                return None
            todo.append(source)
    return feed


def _last_common_value(slicer: Slicer) -> str:
    """The last value before the first weighted layer through which everything flows and whose layout is known."""
    weighted = _first_weighted(slicer)
    end = slicer.position[weighted.name] if weighted else len(slicer.program.steps)
    common = [name for name in slicer.flow.articulations if slicer.position[name] < end and name in slicer.signals]
    return common[-1]
