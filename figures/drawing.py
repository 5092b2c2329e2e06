"""The drawing of a composed or cloned network: a row for every part, from the image to the classes.

A part of a network is drawn as the nodes of that network, those in use in the network's colour; beside it stand its
parameters and its multiply-accumulate operations, as bars of one scale. So the drawing is as readable for one block as
for eight of a hundred nodes.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from figures.diagram import Diagram, Part
from figures.style import FAINT, INK, PALE, ink_on, network_colours, number, save, written

TITLE, NAME, NOTE, SMALL = 12.0, 10.0, 8.0, 7.5  # points
ROW, GAP, TOP, MARGIN = 0.50, 0.30, 0.85, 0.25  # inches
SPINE, LANE, TEXT, LEVEL = 0.42, 0.30, 0.95, 0.17
STRIP, BAR, FIGURES = 4.6, 1.15, 0.85
ADAPTER, HEAD = "#6b6b6b", "#444444"


def draw_network(path: str | Path, diagram: Diagram) -> Path:
    """Draws a network.

    Args:
        path: To write, see ``figures.style.save``.
        diagram: What to draw.
    """
    return save(_Drawing(diagram).figure, path)


@dataclass(frozen=True)
class _Row:
    """A part and the height of its middle, from the top."""

    part: Part
    y: float


class _Drawing:
    """Lays out a diagram in inches, from the top left, and draws it."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.colours = network_colours([*diagram.networks, *(p.network for p in diagram.parts if p.network)])
        y = TOP + 0.55
        longest = max((len(part.nodes) for part in diagram.parts), default=0)
        self.cell = min(STRIP / max(longest, 1), 0.30)
        self.marks = {id(part): self._levels(part) for part in diagram.parts}
        self.rows = []
        for part in diagram.parts:
            self.rows.append(_Row(part, y))
            y += ROW + GAP + LEVEL * max(self.marks[id(part)].values(), default=0)
        self.end = y - 0.12
        lines = [(NAME, True, part.title) for part in diagram.parts] + [(NOTE, False, p.note) for p in diagram.parts]
        tags = {part.tag for part in diagram.parts if part.tag}
        self.from_image = {tag for part in diagram.parts for tag in part.branches.get(0, "").split(", ")} & tags
        self.num_lanes = bool(self.from_image) + bool(tags - self.from_image)
        self.text = TEXT + self.num_lanes * LANE
        needed = max(_width(written(text, 78 if size == NOTE else 54), size, bold) for size, bold, text in lines)
        self.strip = self.text + min(max(needed, 2.0), 5.4) + 0.25
        self.bars = self.strip + max(self.cell * longest, 2.5) + 0.35
        self.width = self.bars + 2 * (BAR + FIGURES) + MARGIN
        self.figure = Figure(figsize=(self.width, self.end + 0.45))
        self.axes = self._axes()
        self._heading()
        self._spine()
        for row in self.rows:
            self._part(row)

    def _axes(self) -> Axes:
        axes = self.figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.width), ylim=(self.end + 0.45, 0))
        axes.axis("off")
        return axes

    def _heading(self) -> None:
        diagram = self.diagram
        self._write(MARGIN, 0.3, written(diagram.title, 120), TITLE, weight="bold")
        names = ("parameters", "MACs of an image")
        for column, (name, total) in enumerate(zip(names, (diagram.num_params, diagram.macs), strict=True)):
            x = self.bars + column * (BAR + FIGURES)
            self._write(x, TOP - 0.13, name, NOTE, color=INK)
            self._write(x, TOP + 0.05, f"{number(total)} in all", SMALL, color=FAINT)
        if any(part.nodes for part in diagram.parts):
            self._write(self.strip, TOP - 0.13, "nodes of its network, those in use in colour", NOTE)
        self._write(self.text, TOP - 0.04, written(f"image {diagram.image}", 80), NOTE)
        self._write(self.text, self.end + 0.1, written(diagram.classes, 90), NOTE)

    def _spine(self) -> None:
        """The way from the image to the classes, with the signals at the seams, and the ways of the branches."""
        main = [row for row in self.rows if not row.part.tag]
        stops = [TOP - 0.04, *(row.y for row in main), self.end + 0.1]
        for above, below in pairwise(stops):
            self._arrow(SPINE, above, below)
        for row, below in pairwise(main):
            if row.part.signal and not row.part.branches:
                self._write(self.text, (row.y + below.y) / 2, row.part.signal, SMALL, color=FAINT)
        for tag in dict.fromkeys(row.part.tag for row in self.rows if row.part.tag):
            self._branch([row for row in self.rows if row.part.tag == tag])

    def _branch(self, rows: list[_Row]) -> None:
        """The way of a branch, from the target or from the image to the module and on to the head."""
        x, joins = self._lane(rows[0].part), rows[-1].y + (ROW + GAP) / 2 - 0.06
        corner = TOP + 0.1 if rows[0].part.tag in self.from_image else rows[0].y - (ROW + GAP) / 2
        for xs, ys in (([SPINE, x, x], [corner, corner, rows[0].y]), ([x, x, SPINE], [rows[-1].y, joins, joins])):
            self.axes.plot(xs, ys, color=INK, linewidth=1.1, zorder=1)
        for above, below in pairwise(rows):
            self._arrow(x, above.y, below.y)
            self._write(self.text, (above.y + below.y) / 2, above.part.signal, SMALL, color=FAINT)

    def _lane(self, part: Part) -> float:
        """Where a part stands: on the way from image to classes, beside it, or outermost where the image is read."""
        lane = 0 if not part.tag else 1 if part.tag not in self.from_image else self.num_lanes
        return SPINE + lane * LANE

    def _arrow(self, x: float, above: float, below: float) -> None:
        self.axes.plot([x, x], [above, below], color=INK, linewidth=1.1, zorder=1, solid_capstyle="butt")
        tip = below - (0.17 if below <= self.end else 0.0)
        self.axes.add_patch(
            Polygon([(x, tip), (x - 0.045, tip - 0.09), (x + 0.045, tip - 0.09)], facecolor=INK, zorder=1)
        )

    def _part(self, row: _Row) -> None:
        part, y = row.part, row.y
        colour = self._colour(part)
        x = self._lane(part)
        if part.kind == "adapter":
            corners = [(x, y - 0.14), (x + 0.17, y), (x, y + 0.14), (x - 0.17, y)]
            self.axes.add_patch(Polygon(corners, facecolor="white", edgecolor=colour, linewidth=1.6, zorder=3))
        else:
            self._box(x - 0.16, y - 0.16, 0.32, 0.32, colour)
        if part.tag and part.kind == "module":
            self._write(x, y, part.tag, NAME, weight="bold", color=ink_on(colour), ha="center")
        self._write(self.text, y - 0.09, written(part.title, 54), NAME, weight="bold")
        self._write(self.text, y + 0.11, written(part.note, 78), NOTE, color="#555555")
        for node, share in enumerate(part.nodes):
            self._node(node, share, y, colour)
        for cut, level in self.marks[id(part)].items():
            at, below = self.strip + cut * self.cell, y + 0.12 + LEVEL * level
            self.axes.plot([at, at], [y - 0.2, below + 0.05], color=INK, linewidth=1.6, zorder=5)
            self._write(at + 0.05, below, _mark(part, cut), SMALL)
        for column, cost in enumerate(("num_params", "macs")):
            self._bar(self.bars + column * (BAR + FIGURES), y, cost, part, colour)

    def _node(self, node: int, share: float, y: float, colour: str) -> None:
        x, gap = self.strip + node * self.cell, min(0.1 * self.cell, 0.03)
        width, height = self.cell - gap, 0.30
        self.axes.add_patch(Rectangle((x, y - height / 2), width, height, facecolor=PALE, linewidth=0, zorder=2))
        if share > 0:
            filled = max(height * share, 0.02)
            bottom = y + height / 2
            self.axes.add_patch(Rectangle((x, bottom - filled), width, filled, facecolor=colour, linewidth=0, zorder=3))
        if self.cell >= 0.19:
            on = ink_on(colour) if share >= 0.6 else INK if share else FAINT
            self._write(x + width / 2, y, str(node), 6.5, color=on, ha="center")

    def _bar(self, x: float, y: float, cost: str, part: Part, colour: str) -> None:
        value, total = getattr(part, cost), getattr(self.diagram, cost)
        length = BAR * value / max(max(getattr(other, cost) for other in self.diagram.parts), 1)
        visible = max(length, 0.012 if value else 0.0)
        self.axes.add_patch(Rectangle((x, y - 0.09), visible, 0.18, facecolor=colour, linewidth=0))
        share = f"{number(value)}  {100 * value / total:.1f} %" if total else number(value)
        self._write(x, y + 0.18, share, SMALL, color="#555555")

    def _levels(self, part: Part) -> dict[int, int]:
        """For every cut where something branches off the line of its label, from 1, so that no two meet."""
        ends: list[float] = []
        levels = {}
        for cut in sorted(part.branches, reverse=True):  # a stroke passes the labels that are left of it
            start = cut * self.cell
            stop = start + 0.1 + _width(_mark(part, cut), SMALL, False)
            level = next((i for i, end in enumerate(ends) if stop < end), len(ends))
            ends[: level + 1] = [start] * (level + 1)
            levels[cut] = level + 1
        return levels

    def _box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        style = "round,pad=0,rounding_size=0.06"
        box = FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none", zorder=3)
        self.axes.add_patch(box)

    def _write(self, x: float, y: float, text: str, size: float, **options) -> None:
        options = {"va": "center", "ha": "left", "color": INK, "zorder": 6, **options}
        self.axes.text(x, y, text, fontsize=size, **options)

    def _colour(self, part: Part) -> str:
        if part.network is not None:
            return self.colours[part.network]
        return ADAPTER if part.kind == "adapter" else HEAD


def _mark(part: Part, cut: int) -> str:
    return f"{part.branches[cut]}: cut {cut}"


def _width(text: str, points: float, bold: bool) -> float:
    """What a line takes in inches, at most."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return points / 72 * (wide + (len(text) - wide) * (0.66 if bold else 0.58))
