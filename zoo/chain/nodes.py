"""Which cuts become the borders of nodes: stem, blocks, links between them, head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from zoo.chain.classify import Anatomy
from zoo.chain.neck import is_weighted
from zoo.chain.program import Step
from zoo.chain.signals import Signal
from zoo.chain.slices import Slicer
from zoo.errors import UserError


def choose_cuts(
    slicer: Slicer, anatomy: Anatomy, name: str, by_hand: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """The borders of the nodes, from the input to the output, and the nodes' kinds.

    A node starts at every block, and between blocks at every weighted layer; what has no weights joins the node before
    it. The stem ends where the first block starts, the head starts behind the last block that still gives an image or
    tokens (attention pooling belongs to the head). In a plain network every weighted layer is a block but those that
    end the image, and the last.

    Args:
        slicer: Knows where the program can be cut.
        anatomy: Which modules are blocks.
        name: Of the network, for messages.
        by_hand: Modules that start nodes, and no others.

    Raises:
        UserError: fewer than three nodes are left, or a module given by hand starts no node.
    """
    cuts = slicer.cuts
    if cuts[-1] not in slicer.signals:
        shape = slicer.native.values[cuts[-1]][1:]
        raise UserError(f"{name} cannot be sliced: its output is neither vectors nor images nor tokens, but {shape}")
    regions = slicer.regions(cuts)
    program = slicer.program
    live = [step for step in program.steps if step.name in slicer.flow.born]
    blocks = [step for step in live if step.kind == "module" and step.target in anatomy.blocks]
    if by_hand is not None:
        _check_by_hand(slicer, blocks, by_hand, name)
    weighted = sorted({regions[step.name] for step in live if is_weighted(step, program, slicer.network)})
    in_block = sorted({regions[step.name] for step in blocks})
    if not weighted:
        raise _no_chain(name, "it has no weights between two single tensors")
    if in_block:
        shaped = [piece for piece in in_block if slicer.signals[cuts[piece + 1]].grid is not None]
        in_block = shaped or in_block
        end = in_block[-1] + 1
    else:
        in_block = weighted
        end = _head_of_plain([slicer.signals[cut] for cut in cuts], weighted)

    starts = in_block if by_hand is not None else sorted({*weighted, *in_block})
    if not any(piece < in_block[0] for piece in weighted):
        starts = starts[1:]  # the stem is what first works on the image: here the first block itself
    body = [piece for piece in starts if in_block[0] <= piece < end]
    borders = sorted({0, *body, *([end] if body else []), len(cuts) - 1})
    if len(borders) < 4:
        raise _no_chain(name, "no three pieces of it (stem, block, head) have a single tensor between them")
    kinds = ["stem"]
    for start, stop in pairwise(borders[1:-1]):
        kinds.append("block" if any(start <= piece < stop for piece in in_block) else "link")
    return [cuts[border] for border in borders], [*kinds, "head"]


def _head_of_plain(signals: list[Signal], weighted: list[int]) -> int:
    """Index of the cut in front of the head: behind the last layer that keeps an image, and its activation.

    The last layer of all is the classifier; a convolution over a whole image of more than 2 x 2 ends it like pooling.
    """
    sizes = [math.prod(signal.grid) if signal.grid else 0 for signal in signals]
    for piece, following in reversed(list(pairwise(weighted))):
        size = sizes[piece + 1]
        if size > 1 or (size == 1 and sizes[piece] <= 4):
            end = piece + 1
            while end < following and sizes[end + 1] == size:
                end += 1
            return end
    return weighted[-1]


def _check_by_hand(slicer: Slicer, blocks: list[Step], by_hand: Sequence[str], name: str) -> None:
    cuts = slicer.cuts
    regions = slicer.regions(cuts)
    taken: set[int] = set()
    for step in blocks:
        if regions[step.name] in taken or not any(source in cuts for source in step.inputs):
            raise UserError(
                f"{name} cannot be cut in front of {step.target}: more than one tensor is needed behind it; "
                "leave it out of nodes=[...]"
            )
        taken.add(regions[step.name])
    for path in by_hand:
        if path not in {step.target for step in blocks}:
            raise UserError(f"{name} never calls {path} on the way to its output; leave it out of nodes=[...]")


def _no_chain(name: str, reason: str) -> UserError:
    return UserError(
        f"{name} is no chain: {reason}; list modules that follow one another with nodes=[...], or take another network"
    )
