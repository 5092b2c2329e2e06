from __future__ import annotations

import csv

import pytest
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.metrics_file import MetricsFile
from tuning.settings import TuningSettings


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_by_step_survive_a_second_logger(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    first.log_metrics({"val/loss": 2.0}, 0)
    first.log_metrics({"train/loss": 1.0, "epoch": 0}, 4)
    first.log_metrics({"val/loss": 1.5}, 4)
    first.save()
    second = MetricsFile(path, resume=True)
    second.log_metrics({"val/loss": 1.25}, 4)
    second.log_metrics({"val/loss": 1.0}, 9)
    second.finalize("success")
    assert [(row["step"], row["val/loss"], row["train/loss"]) for row in read(path)] == [
        ("0", "2.0", ""),
        ("4", "1.25", "1.0"),
        ("9", "1.0", ""),
    ]
    MetricsFile(path).finalize("success")  # a new run without a metric leaves the file to its owner
    assert len(read(path)) == 3


def test_a_run_logs_its_start_and_every_epoch(tmp_path):
    path = tmp_path / "metrics.csv"
    tuning = TuningSettings(mode="full", loss="cross_entropy", norm_stats="frozen", num_epochs=2)
    result = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path, loggers=[MetricsFile(path)])
    rows = read(path)
    assert float(rows[0]["val/accuracy"]) == pytest.approx(result.val_accuracies["start"], abs=1e-6)
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert all(row["val/loss"] and row["val/accuracy"] for row in rows)
    assert not any(name.startswith("test") for name in rows[0])
