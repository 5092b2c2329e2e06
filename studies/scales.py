"""Scales: ``python -m studies.scales``. What do larger budgets give, frozen and full?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fronts.comparison import budgets
from benchmarks.fronts.contenders import pick
from benchmarks.fronts.recipes import costs
from benchmarks.fronts.task import Task
from figures.style import ORIGINS, new_figure, number, tidy
from reassembly.settings import Budget
from studies.bars import interval_of, told
from studies.study import Rows, Study, test_accuracy
from zoo.arguments import positive, run

CLAIM = (
    "accuracy rises with the budget over DeRy(K, parameters in M, GMACs) = (4,10,3), (4,20,5), (4,30,6), (4,50,10), "
    "(4,90,20), up to 78.6 % Freeze-Tuned on ImageNet at the largest"
)


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """What the search picks under every budget, tuned in every mode."""
    limits = arguments.limits or budgets(task, "params", 5)
    rows = []
    for limit in limits:
        for mode in arguments.modes:
            for recipe in pick(task, Budget(max_params=limit), mode):
                accuracy, num_params = test_accuracy(task, recipe, mode), costs(recipe, task).num_params
                rows.append({"limit": limit, "mode": mode, "network": str(recipe), "num_params": num_params})
                rows[-1]["accuracy"] = accuracy
    return rows


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """By mode and budget."""
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = [other for other in rows if (other["mode"], other["limit"]) == (row["mode"], row["limit"])]
        summary.setdefault(row["mode"], {})[str(row["limit"])] = asdict(interval_of(own))
    parts = [
        f"{mode}: " + ", ".join(f"{number(int(limit))} {told(found)}" for limit, found in by_limit.items())
        for mode, by_limit in summary.items()
    ]
    return summary, "; ".join(parts)


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Accuracy against budget, a line for each mode."""
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    tidy(axes)
    for colour, (mode, by_limit) in zip(ORIGINS, summary.items(), strict=False):
        limits, found = [int(limit) for limit in by_limit], list(by_limit.values())
        sides = [[100 * (f["mean"] - f["low"]) for f in found], [100 * (f["high"] - f["mean"]) for f in found]]
        axes.errorbar(
            limits, [100 * f["mean"] for f in found], yerr=sides, marker="o", capsize=3, color=colour, label=mode
        )
    axes.set_xscale("log")
    axes.set_xlabel("budget in parameters")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("The search's pick by budget", loc="left")
    axes.legend(frameon=False, fontsize=9)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Which budgets and modes."""
    parser.add_argument("--limits", type=positive, nargs="+", help="parameters; default: five, from below to above all")
    parser.add_argument("--modes", choices=("probe", "freeze", "full"), nargs="+", default=["freeze", "full"])


STUDY = Study("scales", CLAIM, measure, conclude, draw, options)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
