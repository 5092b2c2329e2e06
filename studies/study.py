"""What all studies share: command line, networks that are drawn, rows that are kept, and how a result is told."""

from __future__ import annotations

import argparse
import logging
import random
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fronts.comparison import smallest
from benchmarks.fronts.recipes import Recipe
from benchmarks.fronts.rows import hits, tuned
from benchmarks.fronts.task import UNREAD, Question, Task, open_task, require_effect
from figures.style import save
from launch.errors import report as tell
from launch.schema import keys
from reassembly.assembly import joined
from zoo import threads
from zoo.arguments import Parser, positive
from zoo.errors import UserError
from zoo.storage.files import write_json, write_text
from zoo.storage.places import require_directory, require_files, with_end

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """One question of the article.

    Attributes:
        name: Of the command and the files.
        claim: What the article says, with its conditions, in a line.
        measure: Of one split, rows of plain data.
        conclude: Of the rows of all splits, figures by name and what was measured in a line.
        draw: The figure.
        options: Adds arguments of its own.
        unread: Settings beside ``benchmarks.fronts.task.UNREAD`` that it does nothing with.
        has_budget: Whether ``budget`` has an effect.
    """

    name: str
    claim: str
    measure: Callable[[Task, argparse.Namespace], Rows]
    conclude: Callable[[Rows], tuple[Mapping[str, Any], str]]
    draw: Callable[[Rows, Mapping[str, Any]], Figure]
    options: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    unread: tuple[str, ...] = ()
    has_budget: bool = False

    def main(self, words: Sequence[str] | None = None) -> None:
        """The command."""
        words = list(sys.argv[1:] if words is None else words)
        threads.prepare()
        parser = Parser(f"python -m studies.{self.name}", description=self.claim)
        parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as train.py takes them")
        parser.add_argument("--zoo", default="embedded", help="name or YAML file")
        parser.add_argument("--dataset", default="cluttered_mnist")
        parser.add_argument("--without", nargs="+", default=[], metavar="NETWORK", help="leave these out of the zoo")
        parser.add_argument("--splits", type=positive, default=3, help="seeds 0, 1, ...")
        parser.add_argument("--cache", default="runs/cache")
        parser.add_argument("--output", type=Path, help="without a suffix; default: benchmarks/results/study_...")
        self.options(parser)
        arguments = parser.parse_intermixed_args(words)
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        try:
            self.run(arguments, f"python -m studies.{self.name}{' ' + shlex.join(words) if words else ''}")
        except UserError as error:
            sys.exit(tell(error, keys()))

    def run(self, arguments: argparse.Namespace, command: str) -> None:
        """Split by split, with files that hold what is known so far.

        Raises:
            UserError: What cannot be read.
        """
        overrides = (f"dataset={arguments.dataset}", *arguments.overrides)
        question = Question(arguments.zoo, overrides, tuple(arguments.without), arguments.cache)
        rows: Rows = []
        unread = {**UNREAD, **dict.fromkeys(self.unread, "leave it out")}
        require_effect(arguments.overrides, {k: v for k, v in unread.items() if k != "budget" or not self.has_budget})
        require_files("--output", arguments.output or RESULTS / "study")
        require_directory("--cache", arguments.cache, is_read=True)
        for seed in range(arguments.splits):
            task = open_task(question, seed)
            rows += [{"seed": seed, **row} for row in self.measure(task, arguments)]
            if not rows:
                raise UserError(_nothing(task, arguments))
            self.write(rows, task, arguments, command)

    def write(self, rows: Rows, task: Task, arguments: argparse.Namespace, command: str) -> None:
        """JSON, Markdown and figure."""
        summary, measured = self.conclude(rows)
        less = f" without {', '.join(arguments.without)}" if arguments.without else ""
        num_splits, tuning = len({row["seed"] for row in rows}), task.config.tuning
        conditions = (
            f"zoo {task.zoo.name}{less} ({len(task.zoo)} networks), {task.data.name}, "
            f"{task.data.num_images('train')} training images, K = {task.settings.partition.num_blocks}, "
            f"{tuning.num_epochs} epochs, {num_splits} split{'s' if num_splits > 1 else ''}"
        )
        path = arguments.output or RESULTS / f"study_{self.name}_{task.zoo.name}_{task.data.name}"
        told = {"claim": self.claim, "measured": measured, "conditions": conditions, "command": command}
        lines = [f"# {self.name}", "", *(f"- {key}: {value}" for key, value in told.items() if key != "command")]
        write_text(with_end(path, ".md"), "\n".join([*lines, f"- command: `{command}`"]) + "\n")
        write_json(with_end(path, ".json"), {**told, "summary": summary, "rows": rows})
        save(self.draw(rows, summary), with_end(path, ".png"))
        print(f"{measured} ({conditions})", flush=True)


def _nothing(task: Task, arguments: argparse.Namespace) -> str:
    """Why there is no row, in a line."""
    for option in ("limits", "limit"):
        if (given := getattr(arguments, option, None)) is not None:
            largest, (name, size) = max(given) if option == "limits" else given, smallest(task, "params")
            if largest < size:
                told = f"nothing fits {largest:,} parameters; the smallest network there is, {name}, takes {size:,}"
                return f"{told}: type --{option} {size}, or more"
            return f"--{option} up to {largest:,} leaves nothing to measure: type more, or leave out fewer"
    return f"zoo {task.zoo.name} ({len(task.zoo)} networks) has nothing to measure here: type --without fewer of them"


OF_PICKS = ("finalists", "selection", "composition", "head")
"""Settings of the search's pick, for studies that have none."""


def test_accuracy(task: Task, recipe: Recipe, mode: str) -> float:
    """Of the tuned network, in [0, 1]; nothing in a study is chosen by it."""
    tuned(task, recipe, mode)
    return round(float(hits(task, recipe, mode).float().mean()), 6)


def drawn_assemblies(task: Task, count: int) -> list[Recipe]:
    """So many different compositions of several networks, drawn by the split's seed among all within the budget."""
    budget = task.config.budget
    fitting = [candidate for candidate in task.assemblies if budget.admits(candidate.num_params, candidate.macs)]
    if not task.assemblies:
        raise UserError(f"zoo {task.zoo.name} ({len(task.zoo)} networks) has no assembly: type --without fewer of them")
    if not fitting:
        raise UserError(f"no assembly fits {budget}: type a larger budget.max_params=..., or budget=unlimited")
    return [recipe_of(task, c.blocks) for c in random.Random(task.seed).sample(fitting, min(count, len(fitting)))]


def recipe_of(task: Task, blocks: Sequence) -> Recipe:
    """Of a composition, with the adapters of the settings."""
    blocks = joined(blocks)
    return Recipe(blocks, (task.settings.adapter.spec(),) * (len(blocks) - 1))
