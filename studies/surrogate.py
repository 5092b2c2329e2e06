"""Surrogate: ``python -m studies.surrogate``. Do the blocks of a composition foretell what tuning makes of it?

An additive model, accuracy = sum of its blocks' worths, by ridge regression on which blocks a composition has. It is
learnt from what ``python -m benchmarks.selection`` tuned: to the end on other splits, or for an epoch on the same one.
Beside it stands what the search looks at instead, the validation accuracy after that epoch itself. Nothing is tuned
here: the rows are read.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.selection import Row
from benchmarks.selection import Rows as SelectionRows
from studies.correlation import Tau, kendall
from studies.study import RESULTS
from zoo.arguments import Parser, run
from zoo.errors import UserError
from zoo.storage.files import write_json, write_text
from zoo.storage.places import require_files, with_end

PENALTY = 1.0
RULES = ("other splits", "own first epochs", "validation after an epoch")


def worths(rows: Sequence[Row], accuracies: Sequence[float], penalty: float = PENALTY) -> dict[str, float]:
    """By block, what it adds to the accuracies of compositions about their mean, by ridge regression."""
    names = sorted({block for row in rows for block in _blocks(row)})
    has = np.array([[name in _blocks(row) for name in names] for row in rows], float)
    values = np.asarray(accuracies, float)
    found = np.linalg.solve(has.T @ has + penalty * np.eye(len(names)), has.T @ (values - values.mean()))
    return dict(zip(names, found.tolist(), strict=True))


def compare(rows: Sequence[Row]) -> dict[str, Tau]:
    """By rule, Kendall's tau with test accuracy after tuning to the end, within each split.

    Args:
        rows: Of one data set and mode, of several splits: to the end (with a test accuracy), and for one epoch.
    """
    ended, short = [row for row in rows if row.test is not None], [row for row in rows if row.epochs == 1]
    foretold: dict[str, list[tuple[float, float, int]]] = {rule: [] for rule in RULES}
    for split in sorted({row.split for row in ended}):
        own = [row for row in ended if row.split == split]
        rest, first = [row for row in ended if row.split != split], [row for row in short if row.split == split]
        means = {s: np.mean([row.val for row in rest if row.split == s]) for s in {row.split for row in rest}}
        known = {row.composition: row.val for row in first}
        models = (
            worths(rest, [row.val - means[row.split] for row in rest]) if rest else {},
            worths(first, [row.val for row in first]) if first else {},
        )
        for row in own:
            for rule, model in zip(RULES, models, strict=False):
                if model:
                    foretold[rule].append((sum(model.get(block, 0.0) for block in _blocks(row)), row.test, split))
            if row.composition in known:
                foretold[RULES[2]].append((known[row.composition], row.test, split))
    return {rule: kendall(*map(list, zip(*found, strict=True))) for rule, found in foretold.items() if found}


def _blocks(row: Row) -> list[str]:
    return row.composition.split(" + ")


def main(words: Sequence[str] | None = None) -> None:
    """The command; writes JSON and Markdown."""
    words = list(sys.argv[1:] if words is None else words)
    parser = Parser(
        "python -m studies.surrogate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=RESULTS / "selection.jsonl", help="of benchmarks.selection")
    parser.add_argument("--output", type=Path, default=RESULTS / "study_surrogate", help="without a suffix")
    arguments = parser.parse_args(words)
    require_files("--output", arguments.output)
    if not arguments.rows.is_file():
        raise UserError(f"--rows {arguments.rows}: no such file: type that of python -m benchmarks.selection")
    rows = list(SelectionRows(arguments.rows).found.values())
    if not any(row.test is not None for row in rows):
        raise UserError(
            f"--rows {arguments.rows}: nothing in it is tuned to the end: run python -m benchmarks.selection"
        )
    cells = sorted({(row.data, row.mode) for row in rows})
    found = {
        f"{data}, {mode}": compare([row for row in rows if (row.data, row.mode) == (data, mode)])
        for data, mode in cells
    }
    command = f"python -m studies.surrogate{' ' + shlex.join(words) if words else ''}"
    lines = [
        "# surrogate over block identity",
        "",
        f"Kendall's tau with test accuracy after tuning, within splits: `{command}`",
        "",
    ]
    lines += ["| | " + " | ".join(RULES) + " |", "|---" * (len(RULES) + 1) + "|"]
    lines += [
        f"| {cell} | " + " | ".join(str(taus.get(rule, "")) for rule in RULES) + " |" for cell, taus in found.items()
    ]
    write_text(with_end(arguments.output, ".md"), "\n".join(lines) + "\n")
    plain = {cell: {rule: asdict(tau) for rule, tau in taus.items()} for cell, taus in found.items()}
    write_json(with_end(arguments.output, ".json"), {"command": command, "tau": plain})
    print("\n".join(lines[4:]), flush=True)


if __name__ == "__main__":
    run(main)
