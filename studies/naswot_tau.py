"""Proxies: ``python -m studies.naswot_tau``. How far does each agree with what tuning gives, and at what price?"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.fronts.recipes import Recipe, costs
from benchmarks.fronts.task import Task
from figures.style import FAINT, INK, PICK, grid_of_panels
from reassembly.assembly import Candidate
from reassembly.prefix_tree import ScoringData
from reassembly.proxies import OF_WHOLE_NETWORKS, PROXIES, find_proxy
from reassembly.scoring import score_candidates
from studies.correlation import kendall
from studies.study import OF_PICKS, Rows, Study, drawn_assemblies, test_accuracy
from zoo.arguments import positive, run

CLAIM = "NASWOT ranks reassembled networks as transfer accuracy does, without training (30 networks, ImageNet)"


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """Compositions drawn at random: scores by every proxy, and accuracy after tuning, with other orders of images."""
    recipes = drawn_assemblies(task, arguments.drawn)
    scores, milliseconds = zip(*(proxy_scores(task, name, recipes) for name in proxies()), strict=True)
    rows, tasks = [], [task.repeated(number) for number in range(arguments.repeats)]
    for index, recipe in enumerate(recipes):
        row = {
            "network": str(recipe),
            "scores": {name: found[index] for name, found in zip(proxies(), scores, strict=True)},
            "milliseconds": dict(zip(proxies(), milliseconds, strict=True)),
        }
        for mode in arguments.modes:
            row[mode] = [test_accuracy(each, recipe, mode) for each in tasks]
        rows.append(row)
    return rows


def proxies() -> list[str]:
    """All that score compositions, controls among them."""
    return [name for name in PROXIES if name not in OF_WHOLE_NETWORKS]


def proxy_scores(task: Task, name: str, recipes: list[Recipe]) -> tuple[list[float], float]:
    """The scores of compositions, turned so that higher is better, and milliseconds for one of them."""
    settings = replace(task.settings.proxy, name=name, also=(), max_redrawn=None)
    data = ScoringData.of(task.zoo, task.search.images, settings.num_images)
    candidates = []
    for recipe in recipes:
        cost = costs(recipe, task)
        candidates.append(Candidate(recipe.blocks, "assembly", cost.num_params, cost.macs))
    start = time.perf_counter()
    scored = score_candidates(candidates, task.chains, data, settings, task.settings.adapter.spec(), task.seed)
    milliseconds = 1000 * (time.perf_counter() - start) / len(recipes)
    sign = 1 if find_proxy(name).higher_is_better else -1
    found = {entry.candidate.blocks: sign * entry.scores[name] for entry in scored}
    return [found[recipe.blocks] for recipe in recipes], round(milliseconds, 2)


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """By mode and proxy: tau within splits, regret of the first, milliseconds; and the ceiling of repeated seeds."""
    names, seeds = list(rows[0]["scores"]), [row["seed"] for row in rows]
    modes = [mode for mode in ("probe", "freeze", "full") if mode in rows[0]]
    summary: dict[str, Any] = {}
    for mode in modes:
        accuracies = [float(np.mean(row[mode])) for row in rows]
        by_proxy = {}
        for name in names:
            scores = [row["scores"][name] for row in rows]
            finite = [score if math.isfinite(score) else -1e30 for score in scores]
            by_proxy[name] = {
                **asdict(kendall(finite, accuracies, seeds)),
                "regret": _regret(finite, accuracies, seeds),
                "milliseconds": float(np.median([row["milliseconds"][name] for row in rows])),
            }
        summary[mode] = {"proxies": by_proxy, "ceiling": None}
        if len(rows[0][mode]) > 1:
            first, second = ([row[mode][number] for row in rows] for number in (0, 1))
            summary[mode]["ceiling"] = asdict(kendall(first, second, seeds))
    parts = []
    for mode in modes:
        ranked = sorted(names, key=lambda name: -(summary[mode]["proxies"][name]["tau"] or 0))
        listed = ", ".join(f"{name} {_told(summary[mode]['proxies'][name])}" for name in ranked)
        ceiling = summary[mode]["ceiling"]
        end = f"; two seeds of the same agree by {_told(ceiling)}" if ceiling else ""
        parts.append(f"tau with {mode}: {listed}{end}")
    return summary, "; ".join(parts)


def _told(found: Mapping[str, Any]) -> str:
    return "none" if found["tau"] is None else f"{found['tau']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _regret(scores: list[float], accuracies: list[float], seeds: list[int]) -> float:
    """How much the first by score is below the best, mean over the splits."""
    lost = []
    for seed in sorted(set(seeds)):
        own = [(score, accuracy) for score, accuracy, of in zip(scores, accuracies, seeds, strict=True) if of == seed]
        lost.append(max(accuracy for _, accuracy in own) - max(own, key=lambda pair: pair[0])[1])
    return float(np.mean(lost))


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Tau with its interval by proxy, a panel for each mode, the ceiling as a line."""
    figure, panels = grid_of_panels(len(summary), width=5.0, height=3.6)
    for axes, (mode, found) in zip(panels, summary.items(), strict=True):
        known = [(name, value) for name, value in found["proxies"].items() if value["tau"] is not None]
        known.sort(key=lambda pair: pair[1]["tau"])
        for place, (name, value) in enumerate(known):
            colour = FAINT if find_proxy(name).is_control else INK
            axes.plot([value["low"], value["high"]], [place, place], color=colour)
            axes.plot([value["tau"]], [place], marker="o", color=colour)
        axes.set_yticks(
            range(len(known)), [f"{name}, {value['milliseconds']:.0f} ms" for name, value in known], fontsize=9
        )
        axes.axvline(0, color=FAINT, linewidth=0.8)
        if found["ceiling"] and found["ceiling"]["tau"] is not None:
            axes.axvline(found["ceiling"]["tau"], color=PICK, linewidth=1.2, label="two seeds of the same")
            axes.legend(frameon=False, fontsize=8)
        axes.set_xlabel("Kendall's tau with test accuracy; grey: controls")
        axes.set_title(mode, loc="left")
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """How many compositions, tuned how often in which modes."""
    parser.add_argument("--drawn", type=positive, default=16, help="compositions of each split")
    parser.add_argument("--repeats", type=positive, default=2, help="trainings of each, with other orders of images")
    parser.add_argument("--modes", choices=("probe", "freeze", "full"), nargs="+", default=["freeze", "full"])


STUDY = Study(
    "naswot_tau",
    CLAIM,
    measure,
    conclude,
    draw,
    options,
    unread=(*OF_PICKS, "proxy=", "proxy.name", "proxy.also", "proxy.max_redrawn"),
    has_budget=True,
)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
