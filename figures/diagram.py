"""What a drawing of a network shows, as plain data: its parts in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Part:
    """One part of a network.

    Attributes:
        kind: ``block`` and ``target`` run on what the part before them gives; a ``module`` branches off the target, and
            so does the ``adapter`` in front of it; other adapters stand between two blocks; the ``head`` reads all.
        title: Name of the network, or of the part.
        note: What else is to be known, in a line.
        num_params: Its parameters.
        macs: Its multiply-accumulate operations per image.
        network: Of which it is a part; decides the colour.
        nodes: For every node of that network's chain the share of it that is in use, from 0 to 1.
        signal: What comes out, such as ``NCHW 24 @4x4``.
        tag: Letter that a branch has in common with its place in the target.
        branches: At cuts of the target's chain the letters of what branches off there.
    """

    kind: Literal["block", "adapter", "target", "module", "head"]
    title: str
    note: str
    num_params: int
    macs: int
    network: str | None = None
    nodes: tuple[float, ...] = ()
    signal: str = ""
    tag: str = ""
    branches: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagram:
    """A whole network.

    Attributes:
        title: What it is.
        image: What it takes.
        parts: In the order in which they run.
        classes: What it tells apart, in a line.
        networks: Names in the order that decides their colours; may be more than are drawn.
    """

    title: str
    image: str
    parts: tuple[Part, ...]
    classes: str
    networks: tuple[str, ...] = ()

    @property
    def num_params(self) -> int:
        """Of all parts."""
        return sum(part.num_params for part in self.parts)

    @property
    def macs(self) -> int:
        """Of all parts, per image."""
        return sum(part.macs for part in self.parts)


def listed_classes(classes: tuple[str, ...] | None, num_classes: int, max_length: int = 70) -> str:
    """The classes in one line: as many names as there is room for, then how many there are."""
    if not classes:
        return f"{num_classes:,} classes"
    shown = ""
    for index, name in enumerate(classes):
        longer = f"{shown}, {name}" if shown else name
        if len(longer) > max_length:
            return f"{len(classes):,} classes: {shown}, ..." if index else f"{len(classes):,} classes"
        shown = longer
    return f"{len(classes):,} {'class' if len(classes) == 1 else 'classes'}: {shown}"


def letters(count: int) -> list[str]:
    """Names of branches: a, b, ..., z, 27, 28, ..."""
    return [chr(ord("a") + i) if i < 26 else str(i + 1) for i in range(count)]
