"""Adapters: ``python -m studies.adapters``. What do kind, kernel, initialisation and feature matching do?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fronts.task import Task
from figures.style import ORIGINS
from studies.bars import bar_chart, interval_of, told
from studies.study import OF_PICKS, Rows, Study, drawn_assemblies, test_accuracy
from zoo.arguments import positive, run
from zoo.blueprint import AdapterSpec

CLAIM = (
    "adapters of batch norm, 1x1 convolution and LeakyReLU, drawn at random and trained, are enough to join frozen "
    "blocks (30 networks, ImageNet)"
)
DEFAULT = "linear 3x3, closed form"
WAYS: Mapping[str, AdapterSpec] = {
    DEFAULT: AdapterSpec("linear", 3),
    "linear 1x1, closed form": AdapterSpec("linear", 1),
    "linear 3x3, random": AdapterSpec("linear", 3, "random"),
    "linear 1x1, random": AdapterSpec("linear", 1, "random"),
    "paper, closed form": AdapterSpec("paper", 1),
    "paper, random": AdapterSpec("paper", 1, "random"),
}
MATCHED = "linear 3x3, random, feature matching"


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """The same compositions with adapters of every way, Freeze-Tuned alike."""
    rows = []
    warm = replace(task, config=replace(task.config, tuning=replace(task.config.tuning, warmup="feature_matching")))
    for recipe in drawn_assemblies(task, arguments.drawn):
        found = {
            way: test_accuracy(task, replace(recipe, adapters=(spec,) * len(recipe.adapters)), arguments.mode)
            for way, spec in WAYS.items()
        }
        random = replace(recipe, adapters=(WAYS["linear 3x3, random"],) * len(recipe.adapters))
        found[MATCHED] = test_accuracy(warm, random, arguments.mode)
        rows += [
            {"network": str(recipe), "way": way, "accuracy": value, "difference": value - found[DEFAULT]}
            for way, value in found.items()
        ]
    return rows


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """Means, and paired differences from the default."""
    by_way = {way: [row for row in rows if row["way"] == way] for way in dict.fromkeys(row["way"] for row in rows)}
    accuracies = {way: asdict(interval_of(own)) for way, own in by_way.items()}
    differences = {way: asdict(interval_of(own, "difference")) for way, own in by_way.items() if way != DEFAULT}
    listed = ", ".join(f"{way} {told(found)}" for way, found in differences.items())
    summary = {"accuracies": accuracies, "differences": differences}
    return summary, f"{DEFAULT} {told(accuracies[DEFAULT])}; against it, in points: {listed}"


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Bars by way."""
    groups = {"": {way.replace(", ", ",\n"): found for way, found in summary["accuracies"].items()}}
    figure = bar_chart(groups, ORIGINS, "The same compositions with other adapters", width=8.6)
    figure.axes[0].tick_params(axis="x", labelsize=7)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """How many compositions, tuned how."""
    parser.add_argument("--drawn", type=positive, default=6, help="compositions of each split")
    parser.add_argument("--mode", choices=("probe", "freeze", "full"), default="freeze")


STUDY = Study(
    "adapters",
    CLAIM,
    measure,
    conclude,
    draw,
    options,
    unread=(*OF_PICKS, "proxy", "adapter", "tuning.warmup"),
    has_budget=True,
)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
