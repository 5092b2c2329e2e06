"""Means of rows with intervals over splits and networks, as text and as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.fronts.statistics import Interval, bootstrap
from figures.style import INK, new_figure, tidy, written


def interval_of(rows: Sequence[Mapping[str, Any]], column: str = "accuracy") -> Interval:
    """The mean of a column over splits, with an interval: splits are drawn again, and rows in each of them."""
    seeds = sorted({row["seed"] for row in rows})
    return bootstrap([np.array([row[column] for row in rows if row["seed"] == seed], float) for seed in seeds])


def told(interval: Mapping[str, Any]) -> str:
    """In percent, or points."""
    return f"{100 * interval['mean']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def bar_chart(
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]], colours: Sequence[str], title: str, *, width: float = 6.0
) -> Figure:
    """Bars of intervals of test accuracies in percent: a colour for each group, a place for each name in it.

    Args:
        groups: By name, ``mean``, ``low`` and ``high`` in [0, 1] by name.
        colours: Of the groups.
        title: Of the figure.
        width: Inches.
    """
    figure = new_figure(width, 4.0)
    axes = figure.subplots()
    tidy(axes)
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    space = 0.8 / len(groups)
    for index, (group, colour) in enumerate(zip(groups.items(), colours, strict=False)):
        label, by_name = group
        found = [
            (names.index(name) + (index - (len(groups) - 1) / 2) * space, value) for name, value in by_name.items()
        ]
        means = [100 * value["mean"] for _, value in found]
        below = [100 * (value["mean"] - value["low"]) for _, value in found]
        above = [100 * (value["high"] - value["mean"]) for _, value in found]
        axes.bar([place for place, _ in found], means, space * 0.9, color=colour, label=label)
        axes.errorbar([p for p, _ in found], means, yerr=[below, above], fmt="none", ecolor=INK, capsize=3)
    axes.set_xticks(range(len(names)), [written(name, 24) for name in names])
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title, loc="left")
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure
