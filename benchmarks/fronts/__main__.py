"""Does composing pay? ``python -m benchmarks.fronts ZOO DATASET [OVERRIDE ...]``: accuracy against budgets.

ZOO is the name of a zoo or a YAML file, DATASET the name of a data set; overrides are those of train.py, such as
``dataset.num_train=100 tuning.num_epochs=6 finalists=9``. For every split (seed), budget and mode, the search's pick
stands against the best whole network, the best one truncated at any node, random assemblies and the controls; all are
tuned by one recipe, validation decides, and test images are read once for each network that was chosen.

What is tuned is stored at once: the same command goes on where it was stopped, more splits, budgets or contenders add
to what is there, and networks are shared between budgets. After every split JSON, table and figure are written.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from launch.errors import report as tell
from launch.schema import keys
from zoo import threads
from zoo.arguments import Parser, positive, run
from zoo.errors import UserError
from zoo.storage.places import require_directory, require_files

RESULTS = Path(__file__).resolve().parents[1] / "results"


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    from benchmarks.fronts.contenders import CONTENDERS

    parser = Parser("python -m benchmarks.fronts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("zoo", metavar="ZOO")
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*")
    parser.add_argument("--splits", type=positive, default=5, help="seeds 0, 1, ...")
    parser.add_argument("--budgets", type=positive, default=6, help="from half the smallest network on")
    parser.add_argument("--limits", type=positive, nargs="+", help="these budgets instead, for one unit")
    parser.add_argument("--units", choices=("params", "macs"), nargs="+", default=["params", "macs"])
    parser.add_argument("--modes", choices=("probe", "freeze", "full"), nargs="+", default=["probe", "freeze", "full"])
    parser.add_argument("--contenders", choices=CONTENDERS, nargs="+", default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--tuned", type=positive, default=3, help="networks of each rival, validation decides")
    parser.add_argument("--without", nargs="+", default=[], metavar="NETWORK", help="leave these out of the zoo")
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--cache", default="runs/cache", help="where stages and rows are stored")
    parser.add_argument("--output", type=Path, help="without a suffix; default: benchmarks/results/fronts_ZOO_DATASET")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    words = list(sys.argv[1:] if words is None else words)
    threads.prepare()
    arguments = parser().parse_intermixed_args(words)
    try:
        compare(arguments, f"python -m benchmarks.fronts {shlex.join(words)}")
    except UserError as error:
        sys.exit(tell(error, keys()))


def compare(arguments: argparse.Namespace, command: str) -> None:
    """Split by split: runs what is not stored, and writes what all splits so far say.

    Raises:
        UserError: What cannot be read, or settings that contradict each other.
    """
    from benchmarks.fronts import comparison, report
    from benchmarks.fronts.task import Question, open_task, require_effect

    require_effect(arguments.overrides)
    if arguments.limits and len(arguments.units) != 1:
        raise UserError("--limits needs one unit: add --units params or --units macs")
    if {"lora", "freeze"} <= {*arguments.contenders, *arguments.modes} and find_spec("peft") is None:
        raise UserError("--contenders lora needs peft: pip install -e .[fronts], or name the other contenders")
    require_files("--output", arguments.output or RESULTS / "fronts")
    require_directory("--cache", arguments.cache, is_read=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    question = Question(
        arguments.zoo,
        (f"dataset={arguments.dataset}", *arguments.overrides),
        tuple(arguments.without),
        arguments.cache,
        arguments.tuned,
    )
    task = open_task(question, seed=0)
    limits = {
        unit: sorted(arguments.limits) if arguments.limits else comparison.budgets(task, unit, arguments.budgets)
        for unit in arguments.units
    }
    networks = [entry.candidate for entry in task.catalogue.candidates if entry.candidate.kind == "network"]
    sizes = {"params": [c.num_params for c in networks], "macs": [c.macs for c in networks]}
    less = f" without {', '.join(arguments.without)}" if arguments.without else ""
    title = f"Fronts: zoo {task.zoo.name}{less}, {task.data.name}, {task.config.tuning.num_epochs} epochs"
    path = arguments.output or RESULTS / "_".join(
        ["fronts", task.zoo.name, task.data.name, *(["without", *arguments.without] if arguments.without else [])]
    )
    points: list[comparison.Point] = []
    for seed in range(arguments.splits):
        wanted = comparison.places([seed], arguments.modes, limits, arguments.contenders)
        for point in comparison.run(question, wanted, arguments.jobs):
            points.append(point)
            place = point.place
            where = f"split {place.seed}, {place.mode}, {place.limit:,} {place.unit}, {place.contender}"
            print(f"{where}: {100 * point.test_accuracy:.1f} {point.network}", flush=True)
        comparison.require_points(task, points, arguments.modes, limits, arguments.contenders)
        print(report.write(points, path, command=command, title=title, sizes=sizes), flush=True)


if __name__ == "__main__":
    run(main, goes_on=True)
