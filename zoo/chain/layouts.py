"""Reading the signal at every cut off one or two runs on the meta device.

Axes that grow with the image are spatial, the one that does not is the channel axis; for networks of a fixed size the
neighbouring layers' channels tell. The grid of tokens is carried forward from the last value that had one: never the
square root of their number.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from zoo.chain.modes import meta_pass, tensors
from zoo.chain.observe import FlowRecorder, Op, flow
from zoo.chain.program import Program
from zoo.chain.signals import Signal
from zoo.errors import FOREIGN_FAULTS

MAX_GUESSED_PREFIX = 16


@dataclass(frozen=True)
class Shapes:
    """The shapes that one run of a program on the meta device gave.

    Attributes:
        input_shape: Of the tensor that went in.
        values: Of every step by name: the shape if it is a tensor, else the value itself.
        ops: All operations.
        shapes: Of every value that they read or made.
        articulations: Shape of every value that all flow passes, in order, and the index of the operation that made it.
        values_in_order: Those values.
        places: For each step whose value is such an articulation, its index among them.
        holds_tensor: Names of the steps whose values contain tensors.
    """

    input_shape: tuple[int, ...]
    values: dict[str, Any]
    ops: list[Op]
    shapes: dict[int, tuple[int, ...]]
    articulations: list[tuple[tuple[int, ...], int]]
    values_in_order: list[int]
    places: dict[str, int]
    holds_tensor: frozenset[str]


def propagate(program: Program, network: nn.Module, shape: tuple[int, ...]) -> Shapes:
    """Shapes the program on an input of this shape."""
    recorder = FlowRecorder()
    values: dict[str, Any] = {program.input: tuple(shape)}
    numbers: dict[str, int] = {}
    holds_tensor = {program.input}
    with meta_pass(), recorder:
        x = torch.empty(shape, device="meta")
        numbers[program.input] = recorder.value_of(x)
        for step, value in program.run(network, x):
            values[step.name] = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            if any(True for _ in tensors(value)):
                holds_tensor.add(step.name)
            if isinstance(value, torch.Tensor):
                numbers[step.name] = recorder.value_of(value)
    way = flow([(op.inputs, op.outputs) for op in recorder.ops], numbers[program.input], numbers[program.output])
    order = {value: index for index, value in enumerate(way.articulations)}
    return Shapes(
        input_shape=tuple(shape),
        values=values,
        ops=recorder.ops,
        shapes=recorder.shapes,
        articulations=[(recorder.shapes[value], way.born[value]) for value in way.articulations],
        values_in_order=way.articulations,
        places={name: order[number] for name, number in numbers.items() if number in order},
        holds_tensor=frozenset(holds_tensor),
    )


def propagate_resized(program: Program, network: nn.Module, native: Shapes) -> Shapes | None:
    """The shapes for another batch and, where the network accepts one, another image size.

    Both axes grow by different whole factors, so that height and width can be told apart; then by the same; then not.
    """
    batch, *rest = native.input_shape
    shapes = [(batch + 1, *rest)]
    if len(rest) == 3:
        channels, height, width = rest
        shapes = [
            (batch + 1, channels, 2 * height, 3 * width),
            (batch + 1, channels, 2 * height, 2 * width),
            (batch + 1, channels, height, width),
        ]
    for shape in shapes:
        try:
            other = propagate(program, network, shape)
        except FOREIGN_FAULTS:
            continue  # the network does not take this size; the next one says less but is accepted more often
        if len(other.articulations) == len(native.articulations):
            return other
    return None


def infer_signals(native: Shapes, other: Shapes | None, source: Signal) -> dict[str, Signal]:
    """The signal after every step whose value all flow passes; steps without a known layout are left out."""
    height = source.grid[0] * source.stride if source.grid and source.stride else None
    signals: list[Signal | None] = []
    grids = (source.grid, _scaled(source, native, other))
    num_prefix = source.num_prefix_tokens
    images = _image_values(native) | set(native.places.values())
    for index, (shape, born) in enumerate(native.articulations):
        second = other.articulations[index][0] if other else None
        if second is not None and len(second) != len(shape):
            second = None
        signal = None
        if index == 0:
            signal = source
        elif shape[0] != native.input_shape[0] or (second is not None and second[0] != other.input_shape[0]):
            pass  # positions folded into the batch
        elif len(shape) == 2:
            signal = Signal("NC", shape[1], None)
        elif len(shape) in (3, 4):
            axis = _channel_axis(shape, second, native, born)
            if len(shape) == 4 and axis is not None:
                signal, image_grids = _of_image(shape, second, axis)
                if _is_rearranged(signal.grid, grids[0]):
                    signal = None
                elif index in images:
                    grids = image_grids
            elif axis == 2:
                signal = _of_tokens(shape, second, grids, num_prefix)
                num_prefix = signal.num_prefix_tokens
        if signal is not None and signal.grid and height:
            signal = replace(signal, stride=height / signal.grid[0])
        signals.append(signal)
    return {name: signals[place] for name, place in native.places.items() if signals[place] is not None}


Grid = tuple[int, int]


def _scaled(source: Signal, native: Shapes, other: Shapes | None) -> Grid | None:
    """The source's grid in the second run."""
    if other is None or source.grid is None:
        return None
    if source.layout == "NLC":
        return source.grid if other.input_shape[1] == native.input_shape[1] else None
    axes = (2, 3) if source.layout == "NCHW" else (1, 2)
    return other.input_shape[axes[0]], other.input_shape[axes[1]]


def _is_rearranged(grid: Grid, image: Grid | None) -> bool:
    """Whether the positions of the image are all there but in another arrangement: windows by positions, say."""
    return image is not None and sorted(grid) != sorted(image) and math.prod(grid) == math.prod(image)


def _of_image(shape: tuple, second: tuple | None, axis: int) -> tuple[Signal, tuple[Grid, Grid | None]]:
    rows, columns = (2, 3) if axis == 1 else (1, 2)
    grid = (shape[rows], shape[columns])
    signal = Signal("NCHW" if axis == 1 else "NHWC", shape[axis], grid)
    return signal, (grid, (second[rows], second[columns]) if second else None)


def _image_values(native: Shapes) -> set[int]:
    """Indices of the articulations that a spatial operation reads or makes; other 4-D values may be attention heads."""
    spatial = [op for op in native.ops if any(word in op.name for word in ("convolution", "pool2d", "upsample"))]
    touched = {value for op in spatial for value in (*op.inputs, *op.outputs)}
    return {index for index, value in enumerate(native.values_in_order) if value in touched}


def _of_tokens(shape: tuple, second: tuple | None, grids: tuple[Grid | None, Grid | None], num_prefix: int) -> Signal:
    """Tokens on the last image's grid or a subsampled one, behind prefix tokens; else tokens in one column."""
    num_tokens, channels = shape[1:]
    grid, second_grid = grids
    grew = second is not None and second[1] != num_tokens
    fits = []
    for factor in range(1, max(grid) + 1) if grid else ():
        coarse = _subsampled(grid, factor)
        prefix = num_tokens - coarse[0] * coarse[1]
        if grew and second_grid:
            rows, columns = _subsampled(second_grid, factor)
            fit = prefix >= 0 and second[1] - rows * columns == prefix
        else:
            fit = 0 <= prefix <= MAX_GUESSED_PREFIX
        if fit:
            fits.append(Signal("NLC", channels, coarse, prefix))
    fits.sort(key=lambda signal: signal.num_prefix_tokens != num_prefix)
    return fits[0] if fits else Signal("NLC", channels, (num_tokens, 1))


def _subsampled(grid: Grid, factor: int) -> Grid:
    return -(-grid[0] // factor), -(-grid[1] // factor)


def _channel_axis(shape: tuple, second: tuple | None, native: Shapes, born: int) -> int | None:
    """1 or the last axis, whichever holds the channels; ``None`` if neither can. Tokens come first where in doubt."""
    candidates = [axis for axis in (1, len(shape) - 1) if second is None or shape[axis] == second[axis]]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    if len(shape) == 3:
        return 2
    for channels, axis in _neighbours(native, born):
        fitting = [candidate for candidate in candidates if shape[candidate] == channels]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            return axis % len(shape)
    return 1


def _neighbours(native: Shapes, born: int) -> Iterator[tuple[int, int]]:
    """Channels and channel axis of the next weighted operation's input, then of the last one's output."""
    weighted = [index for index, op in enumerate(native.ops) if _weighted_axis(op)]
    position = bisect.bisect_right(weighted, born)
    for index, is_next in ((position, True), (position - 1, False)):
        if 0 <= index < len(weighted):
            op = native.ops[weighted[index]]
            argument, axis = _weighted_axis(op)
            shape = native.shapes[op.inputs[argument] if is_next else op.outputs[0]]
            if len(shape) > 1:
                yield shape[axis], axis


def _weighted_axis(op: Op) -> tuple[int, int] | None:
    """Which input of the operation runs through the network, and its channel axis."""
    name = op.name.split(".")[-1]
    if name == "convolution" or "batch_norm" in name or name == "native_group_norm":
        return 0, 1
    if name == "native_layer_norm" or name == "mm":
        return 0, -1
    return (1, -1) if name == "addmm" else None
