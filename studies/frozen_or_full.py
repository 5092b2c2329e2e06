"""Frozen against full: ``python -m studies.frozen_or_full``. What does training the blocks add to the adapters?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fronts.task import Task
from figures.style import FAINT, INK, new_figure, tidy
from studies.bars import interval_of, told
from studies.correlation import kendall
from studies.study import OF_PICKS, Rows, Study, drawn_assemblies, test_accuracy
from zoo.arguments import positive, run

CLAIM = (
    "frozen blocks with trained adapters reach 78.6 % on ImageNet with 1.27 M trained parameters, training everything "
    "83.2 % (DeRy(4, 90, 20), 30 networks)"
)


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """Compositions drawn at random, as they start, Freeze-Tuned and Full-Tuned."""
    return [
        {"network": str(recipe), **{mode: test_accuracy(task, recipe, mode) for mode in ("probe", "freeze", "full")}}
        for recipe in drawn_assemblies(task, arguments.drawn)
    ]


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """Paired gains, and whether the two modes rank compositions alike."""
    gains = [{**row, "freeze": row["freeze"] - row["probe"], "full": row["full"] - row["freeze"]} for row in rows]
    tau = kendall([row["freeze"] for row in rows], [row["full"] for row in rows], [row["seed"] for row in rows])
    summary = {
        **{mode: asdict(interval_of(rows, mode)) for mode in ("probe", "freeze", "full")},
        "freeze_minus_probe": asdict(interval_of(gains, "freeze")),
        "full_minus_freeze": asdict(interval_of(gains, "full")),
        "tau": asdict(tau),
    }
    told_ = {name: told(value) for name, value in summary.items() if name != "tau"}
    return summary, (
        f"closed form {told_['probe']}, Freeze {told_['freeze']} (+{told_['freeze_minus_probe']}), Full "
        f"{told_['full']} (+{told_['full_minus_freeze']}); the two modes rank compositions alike with tau {tau}"
    )


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Full against Freeze, a point for each composition."""
    figure = new_figure(4.8, 4.4)
    axes = figure.subplots()
    tidy(axes)
    axes.scatter([100 * row["freeze"] for row in rows], [100 * row["full"] for row in rows], color=INK, s=22)
    low = 100 * min(min(row["freeze"], row["full"]) for row in rows)
    axes.plot([low, 100], [low, 100], color=FAINT, linewidth=1)
    axes.set_xlabel("Freeze-Tuned, test accuracy in %")
    axes.set_ylabel("Full-Tuned, %")
    axes.set_title("The same compositions", loc="left")
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """How many compositions."""
    parser.add_argument("--drawn", type=positive, default=16, help="compositions of each split")


STUDY = Study("frozen_or_full", CLAIM, measure, conclude, draw, options, unread=(*OF_PICKS, "proxy"), has_budget=True)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
