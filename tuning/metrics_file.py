"""``metrics.csv``: the curves of a run, complete at every moment and continued when the run is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from zoo.storage.files import write_text


class MetricsFile(Logger):
    """Writes one row per step at which something was measured, one column per metric.

    Lightning's own CSV logger deletes what an interrupted run has written and warns of every other file beside it.

    Args:
        path: The file.
        resume: Keep the rows that the file has; a row measured again replaces the old one.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        super().__init__()
        self._path = Path(path)
        self._rows: dict[int, dict[str, float | str]] = {}
        self._is_saved = True
        if resume and self._path.exists():
            with self._path.open(newline="") as file:
                self._rows = {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Nothing: a run's settings have a file of their own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics to the row of a step."""
        row = self._rows.setdefault(step or 0, {"step": step or 0})
        row.update(metrics)
        self._is_saved = False

    @rank_zero_only
    def save(self) -> None:
        """Rewrites the file, atomically, where there is anything new: Lightning asks at every step."""
        if self._is_saved:
            return
        self._is_saved = True
        columns = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self._rows.items()))
        write_text(self._path, text.getvalue().rstrip("\n"))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left."""
        self.save()
