"""The table of a sweep, collected from the rows that its jobs keep: at their ends, and at any time."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.errors import UserError
from zoo.storage.files import read_json, write_text

log = logging.getLogger(__name__)

PLAN, TABLE = "sweep.json", "sweep.csv"
_MAX_LABEL = 40
_WIDTH_OF_FILES = 1000
ROW_LOCK = ".{}.lock"
_TABLE_LOCK = ".table.lock"
ORPHANS_SECONDS = 6.0
"""The workers of a killed job look every five seconds whether their parent lives; its lock lives as long as they do."""

# What a user compares jobs by comes first, then whatever else the jobs report.
_LEADING = ("job", "overrides", "status", "seconds", "directory", "composition", "num_parameters", "macs")
_UNSHOWN = {"job", "overrides", "status", "directory", "composition", "value", "error"}
RECHECK_ERROR = "recheck_error"
"""In the row of a job that was completed before: why it could not be looked at again."""
ENDED = ("completed", "failed", "killed", "interrupted")

Row = dict[str, Any]
"""Of one job: ``job``, ``overrides`` (list of words), ``status``, then what is known."""


def row_path(directory: Path, number: int) -> Path:
    """Where a job of a sweep keeps its row."""
    return directory / f"{number}.json"


def read_plan(directory: Path) -> list[Row]:
    """The rows of the jobs that a sweep was begun with, in so far as they were known."""
    plan = read_json(directory / PLAN)
    jobs = (plan.get("jobs") if isinstance(plan, dict) else None) or []
    return [{"job": n, "overrides": overrides, "status": "not begun"} for n, overrides in enumerate(jobs)]


def clear_rows(directory: Path, *, but: Sequence[Sequence[str]] = ()) -> None:
    """Removes the rows and the table of an earlier sweep in the directory; results of jobs stay.

    Args:
        directory: Of the sweep.
        but: The overrides of jobs, by number, whose rows stay where they tell of the same job and that it is completed.
    """
    kept = [row_path(directory, n) for n, overrides in enumerate(but) if completed_row(directory, n, overrides)]
    for path in (*_row_files(directory), directory / TABLE):
        if path not in kept:
            path.unlink(missing_ok=True)


def completed_row(directory: Path, number: int, overrides: Sequence[str]) -> Row | None:
    """The row that a job has from an earlier sweep, if that is the same job and was completed."""
    path = row_path(directory, number)
    row = _read_row(path) if path.exists() else {}
    row.pop(RECHECK_ERROR, None)
    return row if row.get("status") == "completed" and row["overrides"] == list(overrides) else None


def collect(directory: Path, *, patience_seconds: float = 0.0) -> list[Row]:
    """Reads the rows of all jobs, begun or planned, and writes their table.

    Args:
        directory: Of the sweep.
        patience_seconds: How long to wait for the workers of a killed job, which hold its lock a while longer.

    Raises:
        UserError: There was no sweep.
    """
    try:
        planned = read_plan(directory)
    except (UserError, OSError) as error:
        raise UserError(f"{directory} is no directory of a sweep: it has no {PLAN}, which -m leaves") from error
    lock = FileLock(directory / _TABLE_LOCK)
    try:
        lock.acquire()
    except (NotImplementedError, OSError):
        log.debug("no lock in %s", directory)
    try:
        rows = {row["job"]: row for row in map(_read_row, _row_files(directory))}
        for row in planned:
            rows.setdefault(row["job"], row)
        deadline = time.monotonic() + patience_seconds
        for row in rows.values():
            if row["status"] == "running" and not _is_running(directory, row["job"], deadline):
                error = f"its process ({row.get('process')} on {row.get('machine')}) was killed"
                row |= {"status": "killed", "error": error}
        found = [rows[number] for number in sorted(rows)]
        write_text(directory / TABLE, _csv(found))
    finally:
        lock.release()
    return found


def exit_status(rows: Sequence[Row]) -> int:
    """0 if all jobs are completed, and none that was completed before could not be looked at again; else 1."""
    return int(not rows or any(row["status"] != "completed" or RECHECK_ERROR in row for row in rows))


def print_table(rows: Sequence[Row], directory: Path, width: int | None = None) -> None:
    """Prints a row a job, what it is told from the others by, as many figures as there is room for; then the means over
    seeds, and a line for each job that is not completed.

    Args:
        rows: Of a sweep.
        directory: Of it.
        width: In characters; that of the terminal, or what ``COLUMNS`` says, and as it comes where there is neither.
    """
    from rich.console import Console
    from rich.markup import escape

    if width is None and not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        width = _WIDTH_OF_FILES
    console = Console(width=width, highlight=False, soft_wrap=False)
    missing = [row for row in rows if row["status"] != "completed"]
    labels = differing(rows)
    states = [[row["status"]] for row in rows] if missing else [[] for _ in rows]
    body = [[str(row["job"]), label, *state] for row, label, state in zip(rows, labels, states, strict=True)]
    head = ["job", "settings", *(["status"] if missing else [])]
    title = f"{len(rows)} jobs, {len(rows) - len(missing)} completed: {directory / TABLE}"
    _print_columns(console, escape(title), head, body, [_figures(row) for row in rows])
    groups = seeds(rows)
    if any(len(group) > 1 for group in groups):
        firsts = [group[0] for group in groups]
        labels = differing([{**row, "overrides": _without_seed(row)} for row in firsts])
        ended = [[row for row in group if row["status"] == "completed"] for group in groups]
        spread = [_spread([_figures(row) for row in group]) for group in ended]
        pairs = zip(ended, groups, strict=True)
        counts = [str(len(done)) if done == group else f"{len(done)} of {len(group)}" for done, group in pairs]
        body = [[label, count] for label, count in zip(labels, counts, strict=True)]
        _print_columns(console, "mean ± deviation over seeds", ["settings", "jobs"], body, spread)
    for row, label in zip(rows, differing(rows), strict=True):
        if row["status"] != "completed":
            told = f": {row['error']}" if row.get("error") else ""
            label = " ".join(label.split("\n"))
            console.print(f"job {row['job']} {row['status']} ({label}){told}", markup=False, overflow="fold")
        elif RECHECK_ERROR in row:
            told = f"job {row['job']} completed before, and its result stands; this time: {row[RECHECK_ERROR]}"
            console.print(told, markup=False, overflow="fold")
    if any(row["status"] not in ("completed", "running") for row in missing):
        console.print("the same command with skip_completed=true does what is missing", markup=False)


def differing(rows: Sequence[Row]) -> list[str]:
    """By what each job is told from the others: ``key=value`` a line, keys by their last names where these suffice."""
    words = [dict(word.partition("=")[::2] for word in row["overrides"]) for row in rows]
    keys = list(dict.fromkeys(key for own in words for key in own))
    keys = [key for key in keys if len({own.get(key) for own in words}) > 1]
    last = [re.split(r"[./@]", key)[-1] for key in keys]
    shown = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
    return ["\n".join(f"{shown[key]}={own[key]}" for key in keys if key in own) for own in words]


def seeds(rows: Sequence[Row]) -> list[list[Row]]:
    """The jobs, those together that differ in ``seed=`` alone, in the order of their first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_without_seed(row)), []).append(row)
    return list(groups.values())


def _without_seed(row: Row) -> list[str]:
    return [word for word in row["overrides"] if not word.startswith("seed=")]


def _figures(row: Row) -> dict[str, Any]:
    return {name: value for name, value in {**row, **row.get("metrics", {})}.items() if _is_number(value, name)}


def _is_number(value: Any, name: str) -> bool:
    return name not in {*_UNSHOWN, "process"} and isinstance(value, (int, float)) and not isinstance(value, bool)


def _spread(figures: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    told = {}
    for name in dict.fromkeys(name for own in figures for name in own if name != "seconds"):
        values = [own[name] for own in figures if name in own]
        told[name] = _cell(statistics.fmean(values))
        if len(set(values)) == 1:
            told[name] = _cell(values[0])
        elif len(values) > 1:
            told[name] += f" ± {statistics.stdev(values):.2g}"
    return told


def _print_columns(
    console: Any, title: str, head: list[str], body: list[list[str]], figures: Sequence[Mapping[str, Any]]
) -> None:
    """A table of the leading columns and as many figures as fit beside them; accuracies before costs and times."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = list(dict.fromkeys(name for own in figures for name in own))
    names.sort(key=lambda name: (name.startswith("start"), "accuracy" not in name, name in ("macs", "seconds")))
    columns = {name: [_cell(own.get(name, "")) for own in figures] for name in names}
    lines = [[part for cell in column for part in cell.split("\n")] for column in zip(head, *body, strict=True)]
    widths = [min(max(map(len, column)), _MAX_LABEL) for column in lines]
    room, shown = console.width - sum(widths) - 3 * len(widths), []
    for name in names:
        needed = max(map(len, (*name.split("_"), *columns[name]))) + 3
        if needed <= room:
            shown.append(name)
            room -= needed
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name, width in zip(head, widths, strict=True):
        table.add_column(name, overflow="fold", width=width)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for i, row in enumerate(body):
        table.add_row(*row, *(columns[name][i] for name in shown))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row_files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*.json") if path.stem.isdecimal()]


def _read_row(path: Path) -> Row:
    try:
        row = read_json(path)
    except (UserError, OSError):
        row = None
    kinds = {"status": str, "overrides": list}
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in kinds.items()):
        return {"job": int(path.stem), "overrides": [], "status": "failed", "error": f"{path} is damaged"}
    return {**row, "job": int(path.stem)}


def _is_running(directory: Path, number: int, deadline: float) -> bool:
    """Whether the process of a job lives: it holds the job's lock."""
    lock = FileLock(directory / ROW_LOCK.format(number))
    try:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    except (Timeout, NotImplementedError, OSError):
        return True
    lock.release()
    return False


def _csv(rows: Sequence[Row]) -> str:
    flat = []
    for row in rows:
        plain = {key: value for key, value in row.items() if key not in ("metrics", "machine", "process")}
        flat.append({**plain, "overrides": " ".join(row["overrides"]), **row.get("metrics", {})})
    names = dict.fromkeys(_LEADING) | dict.fromkeys(key for row in flat for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*(name for name in names if name != "error"), "error"], restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
