"""The table of a multirun: a row for every job, failed ones included, rewritten after each of them."""

from __future__ import annotations

import csv
import gc
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from launch.run_directory import owned
from launch.schema import Config
from zoo.errors import UserError
from zoo.storage.files import write_text
from zoo.storage.store import content_key

log = logging.getLogger(__name__)

# What a user compares jobs by comes first, then whatever else the jobs report.
_LEADING = ("job", "overrides", "status", "seconds")


def sweep_name(command: str) -> str:
    """Returns the name of this multirun, the same for the same command line: also its W&B group."""
    return f"{command}-{content_key(sys.argv[1:])[:8]}"


class Sweep:
    """Runs the jobs of one multirun in turn and keeps their table, ``sweep.csv``.

    Args:
        command: ``search`` or ``train``. Without ``output_dir`` the table lies in ``runs/sweeps/<sweep name>``.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.rows: list[dict[str, Any]] = []
        self.table_path: Path | None = None
        self._ownership, self._refusal = ExitStack(), None
        self._is_checked = False

    @property
    def num_failed(self) -> int:
        return sum(row["status"] == "failed" for row in self.rows)

    def job(
        self,
        function: Callable[[Config], Mapping[str, Any]],
        config: Config,
        describe: Callable[[BaseException], str],
    ) -> Mapping[str, Any]:
        """Runs one job and returns its metrics. A failure becomes a row of the table, not an exception."""
        self._own(config)
        hydra = HydraConfig.get()
        row: dict[str, Any] = {"job": hydra.job.num, "overrides": " ".join(hydra.overrides.task)}
        log.info("job %s: %s", row["job"], row["overrides"])
        started = time.perf_counter()
        metrics: Mapping[str, Any] = {"value": math.nan}
        try:
            metrics = function(config)
            row |= {"status": "completed", **metrics}
        except Exception as error:  # noqa: BLE001 told in the table and by the exit status; the run's job.log has the traceback
            row |= {"status": "failed", "error": describe(error)}
            log.error("error: %s", row["error"])
        except BaseException:
            self._add({**row, "status": "interrupted"}, started)
            raise
        self._add(row, started)
        gc.collect()  # no network of a finished job stays in memory
        return metrics

    def once(self, check: Callable[[], None]) -> None:
        """Calls a check before the first job; what it refuses is no job of the sweep begun with.

        Raises:
            UserError: Its refusal, of every job.
        """
        if not self._is_checked:
            self._is_checked = True
            try:
                check()
            except UserError as error:
                self._refusal = error
        if self._refusal is not None:
            raise self._refusal

    def _own(self, config: Config) -> None:
        """Owns the table for the life of the process: another sweep into it would mix its rows with these.

        Raises:
            UserError: Another sweep that is running owns it.
        """
        if self._refusal is not None:
            raise self._refusal
        if self.table_path is None:
            key = "output_dir" if config.output_dir else "runs_dir"
            directory = Path(config.output_dir or Path(config.runs_dir) / "sweeps" / sweep_name(self.command))
            try:
                self._ownership.enter_context(owned(directory, key))
            except UserError as error:
                self._refusal = error
                raise
            self.table_path = directory / "sweep.csv"

    def _add(self, row: dict[str, Any], started: float) -> None:
        row["seconds"] = round(time.perf_counter() - started, 1)
        self.rows.append(row)
        write_text(self.table_path, self._csv())

    def print_table(self) -> None:
        """Prints the rows so far; of the overrides, those in which the jobs differ."""
        from rich.console import Console
        from rich.table import Table

        overrides = [row["overrides"].split() for row in self.rows]
        shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
        columns = [name for name in self._columns() if name != "value" and (name != "error" or self.num_failed)]
        table = Table(*columns, title=f"{len(self.rows)} jobs, {self.num_failed} failed: {self.table_path}")
        for row, own in zip(self.rows, overrides, strict=True):
            shown = {**row, "overrides": "\n".join(override for override in own if override not in shared)}
            table.add_row(*(_cell(shown.get(name, "")) for name in columns))
        Console().print(table)

    def _columns(self) -> list[str]:
        names = dict.fromkeys(_LEADING) | dict.fromkeys(key for row in self.rows for key in row)
        return [name for name in names if name != "error"] + ["error"]

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns(), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
