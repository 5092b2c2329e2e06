"""What a run or a sweep has left behind, read to be shown: results, tables, figures. No network is built."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.storage.files import read_bytes, read_json, read_yaml

CONFIG, RESULT, SWEEP = "config.yaml", "result.json", "sweep.csv"
MAX_TABLE_BYTES = 256 * 2**20
FIGURES = (
    "drawing",
    "training",
    "confusion",
    "candidates",
    "partition",
    "similarity",
    "positions",
    "gates",
    "locality",
)
"""In the order in which they are shown; others after them."""

Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        directory: Where it lies.
        result: ``result.json``, whatever its status.
        config: The resolved configuration, ``config.yaml``.
        tables: Rows of the CSV files it has, by their stems.
        figures: SVG files, or PNG where there is no SVG, by their stems.
    """

    directory: Path
    result: Mapping[str, Any]
    config: Mapping[str, Any]
    tables: Mapping[str, list[Row]]
    figures: Mapping[str, Path]

    @property
    def seed(self) -> Any:
        """That fixed everything."""
        return self.config.get("seed")


@dataclass(frozen=True)
class Group:
    """The jobs of a sweep that differ in their seed alone.

    Attributes:
        overrides: What they have in common.
        rows: One per job, failed ones included.
    """

    overrides: str
    rows: list[Row]

    def spread(self, column: str) -> tuple[float, float | None, int]:
        """Mean, sample standard deviation (none of a single value) and number of the values of a column."""
        values = [value for row in self.rows if (value := as_number(row.get(column, ""))) is not None]
        if not values:
            return math.nan, None, 0
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def is_run(path: Path) -> bool:
    """Whether a run was begun there."""
    return (path / CONFIG).is_file()


def read_run(path: Path) -> Run:
    """Reads what a run wrote.

    Raises:
        UserError: It is no run, was not completed, or a file is damaged.
    """
    if not (path / RESULT).is_file():
        told = "a run that has not ended" if is_run(path) else "no run"
        raise UserError(f"{path} is {told} (it has no {RESULT}): give a directory of search.py or train.py, or a sweep")
    result = read_json(path / RESULT)
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict):
        status = result.get("status") if isinstance(result, dict) else None
        raise UserError(f"{path} has no result (status {str(status)[:40]}): run it to its end, or give another")
    config = read_yaml(path / CONFIG) if is_run(path) else {}
    tables = {table.stem: read_table(table) for table in sorted(path.glob("*.csv"))}
    return Run(path, result, config, tables, find_figures(path))


def find_figures(path: Path) -> dict[str, Path]:
    """The figures of a run directory by their stems, in the order in which they are shown."""
    found = {file.stem: file for suffix in ("png", "svg") for file in sorted(path.glob(f"*.{suffix}"))}
    known = {name: index for index, name in enumerate(FIGURES)}
    return {stem: found[stem] for stem in sorted(found, key=lambda stem: (known.get(stem, len(known)), stem))}


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file.

    Raises:
        UserError: It is no text, too large, or no table.
    """
    try:
        text = read_bytes(path, MAX_TABLE_BYTES).decode()
        rows = list(csv.DictReader(io.StringIO(text), restkey="", restval="", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: damaged, not a table of comma-separated values") from error
    return [{str(key): str(value) for key, value in row.items()} for row in rows]


def grouped(rows: Sequence[Row]) -> list[Group]:
    """The jobs of a sweep, those together that differ in ``seed=`` alone, in the order of their first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        kept = [word for word in row.get("overrides", "").split() if not word.startswith("seed=")]
        groups.setdefault(" ".join(kept), []).append(row)
    return [Group(overrides, jobs) for overrides, jobs in groups.items()]


def numeric_columns(rows: Sequence[Row], leave_out: Sequence[str] = ()) -> list[str]:
    """Columns in which every value that is there is a number."""
    names = dict.fromkeys(name for row in rows for name in row if name not in leave_out)
    there = {name: [row[name] for row in rows if row.get(name, "") != ""] for name in names}
    return [name for name, values in there.items() if values and all(map(is_number, values))]


def as_number(text: str) -> float | None:
    """A finite number, or None for anything else."""
    return float(text) if is_number(text) and math.isfinite(float(text)) else None


def is_number(text: str) -> bool:
    """Whether a text is a number; infinity and NaN are."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def changed_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """The settings of a run that are not those of the command without arguments: key, its value, the default.

    Of another zoo or data set only the name is told, not all that it consists of.
    """
    from launch.defaults import default_settings, flat

    method = run.config.get("method")
    default = default_settings(str(method.get("name")) if isinstance(method, Mapping) else "")
    rows = []
    for group in dict.fromkeys((*run.config, *default)):
        found, usual = ({group: settings[group]} if group in settings else {} for settings in (run.config, default))
        found, usual = flat(found), flat(usual)
        name = f"{group}.name"
        if group in ("zoo", "dataset") and found.get(name) != usual.get(name):
            found, usual = ({name: settings.get(name)} for settings in (found, usual))
        for key in dict.fromkeys((*found, *usual)):
            if found.get(key) != usual.get(key):
                rows.append((key, found.get(key), usual.get(key)))
    return rows
