"""What all figures share: colours, names as they are written, axes, and how a figure becomes files.

Figures are made without pyplot, so that none is kept and no display is asked for; a figure of the same data is the same
file, byte for byte, as PNG and as SVG.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from zoo.storage.files import atomic_path

DPI = 160
MAX_INCHES = 40.0
INK, FAINT, PALE = "#222222", "#9a9a9a", "#ececec"
MAP = "viridis"
"""Perceptually uniform, readable in grey and with any colour vision."""

PICK = "#D55E00"
ORIGINAL, CLONED, LOSS = "#0072B2", "#009E73", "#D55E00"
KINDS = {  # shapes for print
    "assembly": {"marker": "o", "color": "#56B4E9", "label": "assembly"},
    "truncated": {"marker": "^", "color": "#E69F00", "label": "truncated network"},
    "network": {"marker": "s", "color": "#009E73", "label": "whole network"},
}
ORIGINS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#B8A200", "#8C564B", "#6A51A3")
"""Colours of networks, after Okabe and Ito; the vermilion is left for what is picked."""

WIDE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei", "PingFang SC")
SUFFIXES = (".png", ".svg")
MISSING = re.compile(r"Glyph .* missing from")


def network_colours(networks: Iterable[str]) -> dict[str, str]:
    """A colour for every network, by its place: the same in all figures that are given the same names.

    Beyond eight networks the colours come again, lighter and then darker.
    """
    shades = itertools.chain(*([_shade(colour, amount) for colour in ORIGINS] for amount in (0, 0.45, -0.35, 0.7)))
    return dict(zip(dict.fromkeys(networks), itertools.cycle(shades)))


def ink_on(colour) -> str:
    """White or dark, whichever is readable on a colour."""
    return "white" if sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(colour), strict=True)) < 0.55 else INK


def written(name: object, max_length: int = 60) -> str:
    """A name of the user's as text of a figure: one line, no formula, the middle of a long one left out.

    Args:
        name: Any text.
        max_length: In characters, at least 5.
    """
    text = (
        "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", str(name))).strip() or "(no name)"
    )
    if len(text) > max_length:
        head = (max_length - 1) * 3 // 5
        text = f"{text[:head]}…{text[len(text) - (max_length - 1 - head) :]}"
    return text.replace("$", r"\$")


def number(value: float) -> str:
    """A count in three digits: 950, 12.3k, 4.09G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:,.0f}{unit}"
    return f"{value:,.3g}"


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, within reason, whose parts keep out of each other's way."""
    return Figure(figsize=(min(width, MAX_INCHES), min(height, MAX_INCHES)), layout="constrained")


def grid_of_panels(
    num_panels: int, *, width: float, height: float, max_columns: int = 3, **options
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, row by row, each of so many inches; cells that are left over stay empty."""
    columns = min(num_panels, max_columns)
    rows = -(-num_panels // columns)
    figure = new_figure(width * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in panels[num_panels:]:
        axes.remove()
    for axes in panels[:num_panels]:
        tidy(axes)
    return figure, panels[:num_panels]


def tidy(axes: Axes) -> None:
    """Leaves out the lines at the top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.title.set_fontsize(11)


def colour_bar(figure: Figure, axes: Axes, mappable, label: str) -> None:
    """A bar beside the axes that says what its colours mean."""
    bar = figure.colorbar(mappable, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG and as SVG, and returns the path of the PNG.

    Args:
        figure: What to write.
        path: Of the one or the other, or without a suffix.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in SUFFIXES else path
    FigureCanvasAgg(figure)
    with rc_context({"svg.hashsalt": "huozi", "font.family": _families()}):
        with warnings.catch_warnings(record=True) as told, atomic_path(f"{stem}.png") as temporary:
            warnings.simplefilter("always")
            figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})
        figure.set_layout_engine("none")  # it has been laid out, which takes as long as drawing it
        lacking = [warning for warning in told if MISSING.match(str(warning.message))]
        for warning in told:
            if warning not in lacking:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        # As outlines a figure looks the same everywhere; characters that no font here has are left to the reader's.
        rc = {"svg.fonttype": "none" if lacking else "path"}
        with rc_context(rc), warnings.catch_warnings(), atomic_path(f"{stem}.svg") as temporary:
            warnings.filterwarnings("ignore", message=MISSING.pattern)
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return Path(f"{stem}.png")


@functools.cache
def _families() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]


def _shade(colour: str, amount: float) -> str:
    towards = 1.0 if amount > 0 else 0.0
    return "#" + "".join(f"{round(255 * (c + (towards - c) * abs(amount))):02x}" for c in to_rgb(colour))
