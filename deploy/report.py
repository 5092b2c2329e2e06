"""``python -m deploy report RUN_OR_SWEEP``: one HTML page that holds all that is to be seen, and needs no network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.options import require_free
from deploy.page import escaped, facts, figure, note, page, section, shown, table
from deploy.runs import (
    SWEEP,
    Row,
    Run,
    as_number,
    changed_settings,
    grouped,
    is_number,
    numeric_columns,
    read_run,
    read_table,
)
from zoo.errors import UserError
from zoo.storage.files import write_text

MAX_ROWS = 5000
"""Of a table: the page of a million candidates would open in no browser; the CSV file has them all."""

NAME = "report.html"
CAPTIONS = {
    "drawing": "The network: its parts in the order in which they run, with parameters and MACs to scale.",
    "training": "Losses and accuracies while it was tuned.",
    "confusion": "Which class was taken for which.",
    "candidates": "Scores of the candidates against what they cost, with the front and the pick.",
    "partition": "How the networks were cut into blocks, and which blocks are alike.",
    "similarity": "How alike the features of all nodes are.",
    "positions": "Where each source was tried, and where it was inserted.",
    "gates": "Which share of every layer of the sources is kept.",
    "locality": "How alike module and source are, class by class.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN_OR_SWEEP", help="directory of a run, or of a sweep (sweep.csv)")
    parser.add_argument("--output", type=Path, help=f"the page to write; by default {NAME} in that directory")


def run(options: argparse.Namespace) -> int:
    """Writes the page."""
    if not options.run.is_dir():
        raise UserError(f"{options.run} is no directory: give one of search.py or train.py, or of a sweep")
    target = options.output or options.run / NAME
    require_free(target, overwrite=True)
    write_text(target, report(options.run))
    print(target)
    return 0


def report(path: Path) -> str:
    """The page of a run or of a sweep.

    Raises:
        UserError: There is neither, or a file of it is damaged.
    """
    if (path / SWEEP).is_file():
        return _sweep_page(path, read_table(path / SWEEP))
    return _run_page(read_run(path))


def _run_page(run: Run) -> str:
    result, title = run.result, f"Run {run.directory.resolve().name}"
    told = [("composition", result.get("composition")), ("method", _method(run)), ("seed", run.seed)]
    costs = [
        ("parameters", result.get("num_parameters")),
        ("trained parameters", result.get("num_trained_parameters")),
        ("MACs of an image", result.get("macs")),
    ]
    drawing = run.figures.get("drawing")
    others = {name: path for name, path in run.figures.items() if name != "drawing"}
    seconds = result.get("seconds")
    body = [
        f"<h1>{escaped(title)}</h1>",
        facts((name, value) for name, value in [*told, *costs] if value is not None),
        section("The network", figure(drawing, "drawing of the network", CAPTIONS["drawing"]) if drawing else ""),
        section("Metrics", _metrics(result)),
        section("Candidates", _candidates(run.tables.get("candidates", []))),
        section("Positions", _positions(run.tables.get("positions", []))),
        section("Figures", *(figure(path, name, CAPTIONS.get(name, name)) for name, path in others.items())),
        section("Settings that differ from the defaults", _settings(run)),
        section("Data", facts(_pairs(result.get("data")))),
        section("Seconds", facts(_pairs(seconds)), _reused(result)),
        section("Digests and versions", facts([*_pairs(result.get("digests")), *_pairs(result.get("versions"))])),
    ]
    return page(title, filter(None, body))


def _sweep_page(path: Path, rows: list[Row]) -> str:
    title = f"Sweep {path.resolve().name}"
    failed = sum(row.get("status") != "completed" for row in rows)
    metrics = numeric_columns(rows, leave_out=("job", "value"))
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "value"]
    jobs = table(
        columns,
        [[_cell(row.get(name, ""), name in metrics) for name in columns] for row in rows],
        sortable=True,
        numeric=["job", *metrics],
        caption="A click on a head sorts.",
    )
    body = [
        f"<h1>{escaped(title)}</h1>",
        note(f"{len(rows)} jobs, {failed} of them not completed"),
        section("Over seeds", _groups(rows, metrics)),
        section("Jobs", jobs if rows else note("no job has ended yet")),
    ]
    return page(title, filter(None, body))


def _groups(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Mean and deviation of every metric over the jobs that differ in their seed alone."""
    lines = []
    for group in grouped(rows):
        completed = sum(row.get("status") == "completed" for row in group.rows)
        cells: list[Any] = [group.overrides or "(defaults)", f"{completed} of {len(group.rows)}"]
        for name in metrics:
            mean, deviation, count = group.spread(name)
            told = "" if not count else shown(mean) + (f" ± {deviation:.2g}" if deviation is not None else "")
            cells.append((told + (f" (of {count})" if 0 < count < completed else ""), "" if not count else mean))
        lines.append(cells)
    return table(
        ["overrides", "completed", *metrics],
        lines,
        sortable=True,
        numeric=metrics,
        caption="Mean ± sample standard deviation of the completed jobs that differ in their seed alone.",
    )


def _metrics(result: Mapping[str, Any]) -> str:
    from reassembly.proxies import PROXIES, find_proxy

    controls = {name for name in PROXIES if find_proxy(name).is_control}
    rows = [
        (name.replace("_", " ") + (" (a control)" if name in controls else ""), value)
        for name, value in _pairs(result.get("metrics"))
        if name != "value"
    ]
    rows += [(f"validation accuracy, {name}", value) for name, value in _pairs(result.get("val_accuracies"))]
    if choice := result.get("choice"):
        rows.append(("chosen on validation data", choice))
    return facts(rows)


def _candidates(rows: list[Row]) -> str:
    """The table of candidates, with a column that says which are on a front."""
    if not rows:
        return ""
    score = next((name for name in rows[0] if name.startswith("score_")), None)
    columns = [name for name in rows[0] if name != "picked"]
    fronts = [_on_front(rows, cost, score) for cost in ("macs", "num_params")] if score else [set(), set()]
    kept, lines = rows[:MAX_ROWS], []
    numeric = numeric_columns(rows)
    for index, row in enumerate(kept):
        front = [name for name, indices in zip(("MACs", "parameters"), fronts, strict=True) if index in indices]
        lines.append([*(_cell(row[name], name in numeric) for name in columns), ", ".join(front)])
    told = f"{len(rows):,} candidates, the picked one in colour; front: none that costs less has a better {score}."
    if len(rows) > MAX_ROWS:
        told += f" The first {MAX_ROWS:,} are shown, candidates.csv has all."
    picked = [row.get("picked") == "1" for row in kept]
    return table([*columns, "front"], lines, caption=told, sortable=True, picked=picked, numeric=numeric)


def _on_front(rows: Sequence[Row], cost: str, score: str) -> set[int]:
    """Indices of the rows than which none is better at the same or a lower cost."""
    from reassembly.proxies import PROXIES, find_proxy

    name = score.removeprefix("score_")
    sign = -1 if name in PROXIES and not find_proxy(name).higher_is_better else 1
    points = [(as_number(row.get(cost, "")), as_number(row.get(score, "")), index) for index, row in enumerate(rows)]
    found, best = set(), -math.inf
    usable = [(c, sign * s, i) for c, s, i in points if c is not None and s is not None]
    for _, value, index in sorted(usable, key=lambda point: (point[0], -point[1], point[2])):
        if value > best:
            found.add(index)
            best = value
    return found


def _positions(rows: list[Row]) -> str:
    if not rows:
        return ""
    columns = [name for name in rows[0] if name != "chosen"]
    numeric = numeric_columns(rows)
    lines = [[_cell(row[name], name in numeric) for name in columns] for row in rows]
    picked = [row.get("chosen") == "1" for row in rows]
    return table(columns, lines, sortable=True, picked=picked, numeric=numeric, caption="The chosen ones in colour.")


def _settings(run: Run) -> str:
    if not run.config:
        return note("config.yaml is missing")
    rows = changed_settings(run)
    return table(["setting", "here", "default"], rows) if rows else note("none: all settings are the defaults")


def _reused(result: Mapping[str, Any]) -> str:
    reused = result.get("reused")
    return note(f"Taken from an earlier run: {shown(reused)}") if reused else ""


def _method(run: Run) -> Any:
    method = run.config.get("method")
    return method.get("name") if isinstance(method, Mapping) else None


def _pairs(value: Any) -> list[tuple[str, Any]]:
    return [(str(key), item) for key, item in value.items()] if isinstance(value, Mapping) else []


def _cell(text: str, is_numeric: bool) -> Any:
    if not is_numeric or not is_number(text):
        return text
    value = float(text)
    return (int(value) if text.lstrip("-").isdigit() else value, text)
