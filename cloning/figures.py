"""Figures of a search for clones. Plain data in, one PNG out each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cloning.insertion import PositionResult
from cloning.measures import Locality
from zoo.storage.files import atomic_path

DPI = 160
INK, FAINT = "#222222", "#9a9a9a"
LOSS, ORIGINAL, CLONED, OPEN = "#D55E00", "#0072B2", "#009E73", "#56B4E9"  # Okabe and Ito


def positions_figure(path: str | Path, rows: Sequence[PositionResult], chosen: Mapping[str, int]) -> Path:
    """Loss and accuracies over the insertion positions, a panel per source, the choice marked.

    Args:
        path: PNG to write.
        rows: The table of positions.
        chosen: Position by source.
    """
    figure, panels = _figure(len(chosen), width=4.6, height=3.4)
    for axes, (source, position) in zip(panels, chosen.items(), strict=True):
        mine = sorted((row for row in rows if row.source == source), key=lambda row: row.position)
        at = [row.position for row in mine]
        axes.axvline(position, color=FAINT, linewidth=6, alpha=0.35)
        axes.plot(at, [row.loss for row in mine], color=LOSS, marker="o", label="loss (left)")
        axes.set(xlabel="insertion position R (0: the image)", ylabel="validation loss", ylim=(0, None))
        axes.set_title(f"{source}: R = {position}", loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        accuracy = axes.twinx()
        for key, colour, label in (
            ("val_original", ORIGINAL, "accuracy on original classes, % (right)"),
            ("val_cloned", CLONED, "accuracy on cloned classes, % (right)"),
        ):
            values = [100 * getattr(row, key) for row in mine]
            accuracy.plot(at, values, color=colour, marker=".", ls="--", label=label)
        accuracy.set_ylim(None, 100.5)
        accuracy.spines["top"].set_visible(False)
        handles = [handle for part in (axes, accuracy) for handle in part.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return _save(figure, path)


def gates_figure(path: str | Path, kept: Mapping[str, Mapping[str, tuple[int, int]]]) -> Path:
    """Share of open gates in every gated layer, a panel per source.

    Args:
        path: PNG to write.
        kept: By source, by layer in the order of execution: open gates and all gates.
    """
    tallest = max(len(layers) for layers in kept.values())
    figure, panels = _figure(len(kept), width=4.2, height=1.2 + 0.19 * tallest)
    for axes, (source, layers) in zip(panels, kept.items(), strict=True):
        places = np.arange(len(layers))
        shares = [n / of for n, of in layers.values()]
        axes.barh(places, 1.0, color="#ececec")
        axes.barh(places, shares, color=OPEN)
        for place, (n, of) in zip(places, layers.values(), strict=True):
            axes.text(0.99, place, f"{n}/{of}", ha="right", va="center", fontsize=6, color=INK)
        axes.set_yticks(places, layers, fontsize=6)
        axes.set(ylim=(len(layers) - 0.4, -0.6), xlim=(0, 1), xlabel="open gates")
        axes.set_title(source, loc="left")
    return _save(figure, path)


def locality_figure(path: str | Path, localities: Sequence[Locality]) -> Path:
    """Conditional similarity of module and random control with the source, by class; cloned classes are framed.

    Args:
        path: PNG to write.
        localities: One per source.
    """
    figure, panels = _figure(len(localities), width=4.2, height=2.2)
    for axes, locality in zip(panels, localities, strict=True):
        names = list(locality.classes)
        values = np.array([[side[name] for name in names] for side in (locality.classes, locality.random_classes)])
        axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(names)), [f"[{n}]" if n in locality.cloned_classes else n for n in names])
        axes.set_yticks(range(2), ["module", "random"])
        axes.tick_params(length=0)
        axes.set_xlabel("class of the images, [cloned]")
        axes.set_title(f"Sim with {locality.source}", loc="left")
        axes.spines[:].set_visible(False)
    return _save(figure, path)


def _figure(num_panels: int, *, width: float, height: float) -> tuple[Figure, list]:
    figure = Figure(figsize=(width * num_panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.spines["top"].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    return figure, panels


def _save(figure: Figure, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})
    return Path(path)
