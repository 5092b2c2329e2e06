"""The files of a training: curves, confusions, and accuracy by class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.storage.files import write_csv

if TYPE_CHECKING:
    from tuning.fit import TuningResult

log = logging.getLogger(__name__)

MAX_MATRIX_CLASSES = 2000
"""Above this a confusion matrix takes more room than it tells."""


@dataclass(frozen=True)
class TrainingFiles:
    """What was written.

    Attributes:
        figures: Paths of the PNG files.
        table: ``confusion.csv``; None where nothing was tested or there are too many classes.
    """

    figures: tuple[Path, ...]
    table: Path | None


def write_report(tuned: TuningResult, class_names: Sequence[str], directory: Path) -> TrainingFiles:
    """Writes ``training.png`` where anything was trained, ``confusion.png`` and ``confusion.csv`` where it was tested.

    The rows of the table are the classes of the test images, its columns what they were taken for.
    """
    from tuning.figures import confusion_figure, training_figure  # with matplotlib

    figures, table = [], None
    if len(tuned.curves) > 1:
        figures.append(
            training_figure(
                directory / "training.png", tuned.curves, tuned.choice, tuned.val_accuracies, tuned.val_losses
            )
        )
    if tuned.outcomes is not None and len(class_names) > MAX_MATRIX_CLASSES:
        log.info(
            "no confusion.png and confusion.csv: %s classes, %s at most; result.json has the accuracy of each",
            *(f"{len(class_names):,}", f"{MAX_MATRIX_CLASSES:,}"),
        )
    elif tuned.outcomes is not None:
        confusion = tuned.outcomes.confusion.numpy()
        table = directory / "confusion.csv"
        rows = [[name, *row] for name, row in zip(class_names, confusion.tolist(), strict=True)]
        write_csv(table, ["class", *class_names], rows)
        figures.append(confusion_figure(directory / "confusion.png", confusion, class_names))
    return TrainingFiles(tuple(figures), table)
