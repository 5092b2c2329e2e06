"""Figures of a search for clones. Plain data in, files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cloning.choice import PositionResult, on_front
from cloning.measures import Locality
from figures.style import (
    CLONED,
    FAINT,
    INK,
    LOSS,
    MAP,
    ORIGINAL,
    PALE,
    colour_bar,
    grid_of_panels,
    network_colours,
    new_figure,
    save,
    tidy,
    written,
)

MAX_WRITTEN = 24
"""Classes beside each other whose values are still written into their cells."""


def positions_figure(path: str | Path, rows: Sequence[PositionResult], chosen: Mapping[str, int]) -> Path:
    """Loss and accuracies over the insertion positions, a column per source with common axes, the choice marked.

    Args:
        path: To write, see ``figures.style.save``.
        rows: The table of positions.
        chosen: Position by source.
    """
    figure = new_figure(1.2 + 3.4 * len(chosen), 5.6)
    panels = figure.subplots(2, len(chosen), squeeze=False, sharex=True, sharey="row")
    for column, (source, position) in enumerate(chosen.items()):
        losses, accuracies = panels[:, column]
        mine = sorted((row for row in rows if row.source == source), key=lambda row: row.position)
        at = [row.position for row in mine]
        losses.plot(at, [row.loss for row in mine], color=LOSS, marker="o", markersize=4)
        for key, colour, label in (
            ("val_original", ORIGINAL, "classes of the target"),
            ("val_cloned", CLONED, "cloned classes"),
        ):
            values = [getattr(row, key) for row in mine]
            values = [np.nan if value is None else value for value in values]
            accuracies.plot(at, values, color=colour, marker="o", markersize=4, label=label)
        for axes in (losses, accuracies):
            tidy(axes)
            axes.axvline(position, color=FAINT, linewidth=7, alpha=0.35, zorder=0)
            axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
        losses.set_title(f"{written(source, 34)}\ninserted at R = {position}", loc="left", fontsize=10)
        accuracies.set_xlabel("position R: a cut of the target, 0 the image")
        accuracies.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    places = [row.position for row in rows]
    panels[0, 0].set(ylabel="validation loss", ylim=(0, None), xlim=(min(places) - 0.5, max(places) + 0.5))
    positive = [row.loss for row in rows if row.loss > 0]
    if positive and max(positive) > 30 * min(positive):  # sources of very different losses share one axis
        panels[0, 0].set_yscale("symlog", linthresh=min(positive))
    panels[1, 0].set_ylabel("validation accuracy, %")
    panels[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    panels[1, 0].set_ylim(None, 1.005)
    handles, labels = panels[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return save(figure, path)


def front_figure(
    path: str | Path, rows: Sequence[PositionResult], chosen: Sequence[PositionResult], networks: Sequence[str] = ()
) -> Path:
    """Validation loss against the MACs that a clone adds, a panel per source, the front as a line, the choice marked.

    Args:
        path: To write, see ``figures.style.save``.
        rows: The table of shares and positions.
        chosen: A row of it per source.
        networks: Names in the order that decides their colours.
    """
    colours = network_colours([*networks, *(row.source for row in chosen)])
    figure, panels = grid_of_panels(len(chosen), width=4.0, height=3.2, max_columns=3)
    for axes, pick in zip(panels, chosen, strict=True):
        mine = [row for row in rows if row.source == pick.source]
        front = sorted((row for row in mine if on_front(row, mine)), key=lambda row: row.added_macs)
        axes.plot([row.added_macs for row in front], [row.loss for row in front], color=colours[pick.source])
        axes.scatter([row.added_macs for row in mine], [row.loss for row in mine], s=18, color=colours[pick.source])
        axes.scatter([pick.added_macs], [pick.loss], s=130, facecolors="none", edgecolors=INK, linewidths=1.4)
        tidy(axes)
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set(xlabel="MACs that are added", ylabel="validation loss", xlim=(0, None), ylim=(0, None))
        title = f"{written(pick.source, 34)}\n{pick.share} at R = {pick.position}"
        axes.set_title(title, loc="left", fontsize=10)
    return save(figure, path)


def gates_figure(
    path: str | Path, kept: Mapping[str, Mapping[str, tuple[int, int]]], networks: Sequence[str] = ()
) -> Path:
    """Share of open gates in every gated layer, a panel per source.

    Args:
        path: To write, see ``figures.style.save``.
        kept: By source, by layer in the order of execution: open gates and all gates.
        networks: Names in the order that decides their colours.
    """
    tallest = max(len(layers) for layers in kept.values())
    colours = network_colours([*networks, *kept])
    names = max(len(written(layer, 48)) for layers in kept.values() for layer in [*layers, ""])
    height = 1.3 + 0.2 * min(tallest, 150)
    figure, panels = grid_of_panels(len(kept), width=3.0 + 0.075 * names, height=height, max_columns=4)
    for axes, (source, layers) in zip(panels, kept.items(), strict=True):
        places = np.arange(len(layers))
        shares = [n / of if of else 0.0 for n, of in layers.values()]
        axes.barh(places, 1.0, color=PALE)
        axes.barh(places, shares, color=colours[source])
        size = 8.0 if len(layers) <= 150 else 8.0 * 150 / len(layers)
        for place, (n, of) in zip(places, layers.values(), strict=True):
            axes.text(1.02, place, f"{n}/{of}", ha="left", va="center", fontsize=size, color=INK)
        axes.set_yticks(places, [written(layer, 48) for layer in layers], fontsize=size)
        axes.set(ylim=(tallest - 0.4, -0.6), xlim=(0, 1), xlabel="gates that stay open, %")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        total, of = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
        share = f"{100 * total / of:.0f} % of {of:,} gates" if of else "no gates"
        axes.set_title(f"{written(source, 34)}\n{share}", loc="left", fontsize=10)
    return save(figure, path)


def locality_figure(path: str | Path, localities: Sequence[Locality]) -> Path:
    """Conditional similarity of module and random control with the source, by class; cloned classes are bracketed.

    Args:
        path: To write, see ``figures.style.save``.
        localities: One per source.
    """
    most = max(len(locality.classes) for locality in localities)
    width = min(3.4 + 0.42 * most, 16.0)
    figure, panels = grid_of_panels(len(localities), width=width, height=2.6, max_columns=1 if most > 12 else 2)
    image = None
    for axes, locality in zip(panels, localities, strict=True):
        names = list(locality.classes)
        values = np.array([[side[name] for name in names] for side in (locality.classes, locality.random_classes)])
        image = axes.imshow(values.astype(float), cmap=MAP, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values) if len(names) <= MAX_WRITTEN else ():
            colour = "white" if value < 0.6 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        shown = [written(f"[{name}]" if name in locality.cloned_classes else name, 24) for name in names]
        is_long = max(map(len, [*shown, ""])) > 5 or len(names) > MAX_WRITTEN
        ticks = [k for k, name in enumerate(names) if len(names) <= 60 or name in locality.cloned_classes]
        axes.set_xticks(ticks, [shown[k] for k in ticks], rotation=90 if is_long else 0, fontsize=8)
        axes.set_yticks(range(2), ["module", "random gates"])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("class of the images, the cloned ones in brackets")
        axes.set_title(written(locality.source, 40), loc="left", fontsize=10)
    figure.suptitle("Cosine of the logits of module and source, about their means", x=0.01, ha="left", fontsize=10)
    if image is not None:
        colour_bar(figure, panels, image, "1: as the source")
    return save(figure, path)
