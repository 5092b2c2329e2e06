from __future__ import annotations

import logging

import pytest
from tuning_stand_ins import Blobs, StandIn

from tuning.first_epoch import is_far_below
from tuning.fit import tune
from tuning.settings import OptimizerSettings, ScheduleSettings, TuningSettings


@pytest.mark.parametrize(
    ("accuracy", "start", "num_images", "expected"),
    [
        (0.105, 0.93, 300, True),
        (0.88, 0.93, 300, False),  # three standard errors are 7.2 points
        (0.89, 0.93, 30000, False),  # four points are no destruction
        (0.87, 0.93, 30000, True),
        (0.95, 0.93, 300, False),
        (0.1, 0.1, 300, False),
    ],
)
def test_what_is_far_below(accuracy, start, num_images, expected):
    assert is_far_below(accuracy, start, num_images) is expected


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (
            0.03,
            "is being lost; type optimizer.block_scale=0.1 (now 1), or optimizer.learning_rate=0.003 (now 0.03), which",
        ),
        (300.0, "training diverges; type a smaller optimizer.learning_rate, 0.003 or less (now 300)"),
        (1e-5, None),
    ],
)
def test_an_epoch_that_destroys_is_told_with_its_figures(rate, told, tmp_path, caplog):
    tuning = TuningSettings(mode="full", loss="cross_entropy", num_epochs=1)
    optimizer = OptimizerSettings(learning_rate=rate, block_scale=1.0, layer_decay=1.0)
    schedule = ScheduleSettings(name="constant", warmup_fraction=0.0)
    with caplog.at_level(logging.WARNING):
        result = tune(StandIn(), Blobs(), tuning, optimizer=optimizer, schedule=schedule, run_dir=tmp_path, test=False)
    lines = [record.getMessage() for record in caplog.records if "epoch 1 took" in record.getMessage()]
    assert len(lines) == (told is not None)
    if told:
        assert told in lines[0]
        figures = result.val_losses if "diverges" in told else result.val_accuracies
        form = ".4g" if "diverges" in told else ".4f"
        assert f"from {figures['start']:{form}} to {figures['tuned']:{form}}" in lines[0]
