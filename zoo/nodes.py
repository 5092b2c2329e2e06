"""Which cuts become the borders of nodes: stem, blocks, links between them, head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from zoo.classify import Anatomy
from zoo.errors import UserError
from zoo.neck import is_weighted
from zoo.program import Step
from zoo.slices import Slicer


def choose_cuts(
    slicer: Slicer, anatomy: Anatomy, name: str, by_hand: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """The borders of the nodes, from the input to the output, and the nodes' kinds.

    A node starts at every block, and between blocks at every weighted layer; what has no weights joins the node before
    it. The stem ends where the first block starts, the head starts behind the last block. In a plain network every
    weighted layer is a block; its head starts behind the last image, at the latest in front of the last layer.

    Args:
        slicer: Knows where the program can be cut.
        anatomy: Which modules are blocks.
        name: Of the network, for messages.
        by_hand: Modules that start nodes, and no others.

    Raises:
        UserError: fewer than three nodes are left, or a module given by hand starts no node.
    """
    cuts = slicer.cuts
    regions = slicer.regions(cuts)
    program = slicer.program
    live = [step for step in program.steps if step.name in slicer.flow.born]
    blocks = [step for step in live if step.kind == "module" and step.target in anatomy.blocks]
    weighted = [step for step in live if is_weighted(step, program, slicer.network)]
    is_plain = not blocks
    weighted_pieces = {regions[step.name] for step in weighted}
    in_block = sorted({regions[step.name] for step in (weighted if is_plain else blocks)})
    if not in_block:
        raise _no_chain(name, "nothing in it has weights or a branch between two single tensors")
    if by_hand is not None:
        _check_by_hand(slicer, blocks, by_hand, name)
        starts = in_block
    else:
        starts = sorted(weighted_pieces | set(in_block))
    end = _head_of_plain(slicer, cuts, in_block) if is_plain else in_block[-1] + 1

    if not any(piece < in_block[0] for piece in weighted_pieces):
        starts = starts[1:]  # the stem is what first works on the image: here the first block itself
    body = [piece for piece in starts if in_block[0] <= piece < end]
    borders = [0, *(piece for piece in body if piece > 0), *([end] if body else []), len(cuts) - 1]
    borders = sorted(dict.fromkeys(borders))
    if len(borders) < 4:
        raise _no_chain(name, f"only {len(borders) - 1} pieces have a single tensor between them")
    kinds = ["stem"]
    for start, stop in pairwise(borders[1:-1]):
        kinds.append("block" if any(start <= piece < stop for piece in in_block) else "link")
    return [cuts[border] for border in borders], [*kinds, "head"]


def _head_of_plain(slicer: Slicer, cuts: list[str], weighted: list[int]) -> int:
    """Index of the cut behind the last image (a grid of more than one position), not behind the last layer."""
    latest = weighted[-1]
    for index in range(latest, 0, -1):
        grid = slicer.signals[cuts[index]].grid
        if grid is not None and grid != (1, 1):
            return index
    return latest


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
