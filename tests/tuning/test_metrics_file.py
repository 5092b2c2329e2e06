from __future__ import annotations

import csv
import logging
import re

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.metrics_file import MetricsFile
from tuning.settings import OptimizerSettings, ScheduleSettings, TrainerSettings, TuningSettings


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


def test_a_run_logs_its_start_every_epoch_and_steps_between(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tuning.curves")
    path = tmp_path / "metrics.csv"
    tuning = TuningSettings(mode="full", loss="cross_entropy", norm_stats="frozen", num_epochs=2)
    options = {"trainer": TrainerSettings(log_every_num_steps=3), "schedule": ScheduleSettings(name="constant")}
    optimizer = OptimizerSettings(learning_rate=0.002)
    loggers = [MetricsFile(path)]
    result = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path, loggers=loggers, optimizer=optimizer, **options)
    rows = read(path)
    assert float(rows[0]["val/accuracy"]) == pytest.approx(result.val_accuracies["start"], abs=1e-6)
    assert [(row["step"], row["epoch"]) for row in rows] == [
        ("0", "0"),
        ("3", "0.75"),
        ("4", "1"),
        ("6", "1.5"),
        ("8", "2"),
    ]
    assert [bool(row["train/loss"] and row["val/loss"]) for row in rows] == [False, False, True, False, True]
    assert all(row["train/batch_loss"] for row in rows if row["step"] in ("3", "6"))
    state = ("train/images_per_s", "train/learning_rate", "train/gradient_norm", "train/memory_mib")
    assert all(float(row[name]) > 0 for row in rows[1:] for name in state)
    assert float(rows[-1]["train/learning_rate"]) == pytest.approx(0.002)
    assert not any(name.startswith("test") for name in rows[0])
    assert [float(row["val/loss"]) for row in rows if row["val/loss"]] == [row["val/loss"] for row in result.curves]
    told = [record.getMessage() for record in caplog.records if record.name == "tuning.curves"]
    told = [message for message in told if message.startswith("epoch")]
    assert len(told) == 4
    assert re.fullmatch(r"epoch 0.75/2, step 3: loss [\d.]+; \d+ images/s, learning rate .*", told[0])
    assert re.fullmatch(
        r"epoch 2/2: loss [\d.]+, accuracy [\d.]+; validation loss [\d.]+, accuracy [\d.]+; \d+ images/s, "
        r"learning rate 0.002, gradient norm [\d.e+]+, memory \d+ MiB",
        told[-1],
    )


def test_the_norm_that_is_logged_is_that_of_the_gradient_before_clipping(tmp_path):
    class Norms(pl.Callback):
        def __init__(self):
            self.values = []

        def on_after_backward(self, trainer, module):
            gradients = [p.grad.flatten() for p in module.network.parameters() if p.grad is not None]
            self.values.append(float(torch.cat(gradients).norm()))

    tuning, norms = TuningSettings(mode="full", loss="cross_entropy", norm_stats="frozen", num_epochs=1), Norms()
    optimizer = OptimizerSettings(gradient_clip_norm=1e-3)
    result = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path, optimizer=optimizer, callbacks=[norms])
    assert result.curves[-1]["train/gradient_norm"] == pytest.approx(norms.values[-1], rel=1e-5)
    assert norms.values[-1] > 1e-2
