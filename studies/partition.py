"""Partition: ``python -m studies.partition``. Does it matter where networks are cut?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fronts.contenders import pick
from benchmarks.fronts.task import Task
from figures.style import ORIGINS, PICK
from studies.bars import bar_chart, interval_of, told
from studies.study import Rows, Study, drawn_assemblies, test_accuracy
from zoo.arguments import positive, run

CLAIM = (
    "a joint partition into equivalence sets by similarity gives blocks that can be exchanged for each other (30 "
    "networks, ImageNet); cuts at equal lengths are the baseline here"
)


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """Of every way to partition: what the search finds on it, and compositions drawn from it, tuned alike."""
    rows = []
    for way in arguments.ways:
        other = replace(task, config=replace(task.config, partition=replace(task.config.partition, mode=way)))
        picked = [("pick", recipe) for recipe in pick(other, task.config.budget, arguments.mode)]
        for kind, recipe in [*picked, *(("drawn", recipe) for recipe in drawn_assemblies(other, arguments.drawn))]:
            accuracy = test_accuracy(other, recipe, arguments.mode)
            rows.append({"way": way, "kind": kind, "network": str(recipe), "accuracy": accuracy})
        rows[-1]["objective"] = other.catalogue.partition.objective
    return rows


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """Means with intervals of the picks and of what was drawn, by way."""
    summary = {
        kind: {
            way: asdict(interval_of([row for row in rows if (row["way"], row["kind"]) == (way, kind)]))
            for way in dict.fromkeys(row["way"] for row in rows if row["kind"] == kind)
        }
        for kind in ("pick", "drawn")
    }
    parts = [
        f"{'picks' if kind == 'pick' else 'drawn compositions'}: "
        + ", ".join(f"{way} {told(found)}" for way, found in by_way.items())
        for kind, by_way in summary.items()
    ]
    return summary, "; ".join(parts)


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Bars by way, of picks and of what was drawn."""
    groups = {"the search's pick": summary["pick"], "drawn at random": summary["drawn"]}
    return bar_chart(groups, (PICK, ORIGINS[4]), "Accuracy by the way of partitioning")


def options(parser: argparse.ArgumentParser) -> None:
    """Which ways, and how many compositions are drawn."""
    parser.add_argument("--ways", nargs="+", default=["even", "stage", "permutation"], help="values of partition.mode")
    parser.add_argument("--drawn", type=positive, default=4, help="compositions drawn from every partition")
    parser.add_argument("--mode", choices=("probe", "freeze", "full"), default="freeze")


STUDY = Study("partition", CLAIM, measure, conclude, draw, options, unread=("partition.mode",), has_budget=True)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
