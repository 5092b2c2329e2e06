"""Soups: ``python -m studies.soups``. Is the mean of the weights of several tunings worth their price?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.fronts.contenders import pick
from benchmarks.fronts.recipes import Recipe
from benchmarks.fronts.rows import hits_of, restored, tuned
from benchmarks.fronts.task import Task
from figures.style import ORIGINS
from reassembly.settings import Budget
from studies.bars import bar_chart, interval_of, told
from studies.study import Rows, Study, test_accuracy
from tuning.network import TunableNetwork
from zoo.arguments import positive, run

CLAIM = (
    "no article of these two: the mean of the weights of networks tuned from one start with other orders of images is "
    "better than the best of them (model soups, arXiv 2203.05482, on ImageNet)"
)


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """The search's pick tuned several times, the best of these on validation, and their mean."""
    rows = []
    for mode in arguments.modes:
        for recipe in pick(task, Budget(max_params=arguments.limit), mode):
            tasks = [task.repeated(number) for number in range(arguments.draws)]
            found = [tuned(each, recipe, mode) for each in tasks]
            best = max(range(len(found)), key=lambda number: (found[number].val_accuracy, -found[number].val_loss))
            tests = [test_accuracy(each, recipe, mode) for each in tasks]
            alike = [each for each, row in zip(tasks, found, strict=True) if row.head_inputs == found[0].head_inputs]
            soup = mean_network(alike, recipe, mode)
            rows.append(
                {
                    "mode": mode,
                    "network": str(recipe),
                    "num_tunings": len(alike),
                    "one": sum(tests) / len(tests),
                    "best": tests[best],
                    "soup": _accuracy(task, recipe, soup, "test"),
                    "val_best": found[best].val_accuracy,
                    "val_soup": _accuracy(task, recipe, soup, "val"),
                }
            )
            row = rows[-1]
            row["gain"] = row["soup"] - row["best"]
            row["chosen"] = row["soup" if row["val_soup"] > row["val_best"] else "best"]
            row["gain_of_choice"] = row["chosen"] - row["one"]
    return rows


def _accuracy(task: Task, recipe: Recipe, network: TunableNetwork, split: str) -> float:
    return round(float(hits_of(task, recipe, network, split).float().mean()), 6)


def mean_network(tasks: list[Task], recipe: Recipe, mode: str) -> TunableNetwork:
    """Of one recipe, tuned on each of these; everything that was trained is the mean over them, the head among it."""
    networks = [restored(task, recipe, mode) for task in tasks]
    states = [network.trained_state() for network in networks]
    with torch.no_grad():
        for name, tensor in states[0].items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    return networks[0]


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """By mode: one tuning, the best of several, their mean."""
    summary: dict[str, Any] = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        own = [row for row in rows if row["mode"] == mode]
        columns = ("one", "best", "soup", "gain", "gain_of_choice")
        summary[mode] = {column: asdict(interval_of(own, column)) for column in columns}
    parts = [
        f"{mode}: one tuning {told(found['one'])}, best of several on validation {told(found['best'])}, their mean "
        f"{told(found['soup'])}, mean minus best {told(found['gain'])}, whichever validation prefers minus one tuning "
        f"{told(found['gain_of_choice'])}"
        for mode, found in summary.items()
    ]
    return summary, "; ".join(parts)


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Bars by mode."""
    names = {"one tuning": "one", "the best of several": "best", "their mean": "soup"}
    groups = {name: {mode: found[key] for mode, found in summary.items()} for name, key in names.items()}
    return bar_chart(groups, ORIGINS, "The pick, tuned several times")


def options(parser: argparse.ArgumentParser) -> None:
    """Budget, modes and number of tunings."""
    parser.add_argument("--limit", type=positive, default=120_000, help="parameters")
    parser.add_argument("--draws", type=positive, default=3, help="tunings of each pick")
    parser.add_argument("--modes", choices=("freeze", "full"), nargs="+", default=["freeze", "full"])


STUDY = Study("soups", CLAIM, measure, conclude, draw, options)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
