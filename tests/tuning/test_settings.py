from __future__ import annotations

import pytest

from tuning.settings import (
    CROSS_ENTROPY_RATES,
    HeadSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainerSettings,
    TuningSettings,
)
from zoo.errors import UserError


@pytest.mark.parametrize(
    ("settings", "values", "override"),
    [
        (TuningSettings, {"mode": "most"}, "tuning.mode=most"),
        (TuningSettings, {"loss": "mse"}, "tuning.loss=mse"),
        (TuningSettings, {"num_epochs": -1}, "tuning.num_epochs=-1"),
        (TuningSettings, {"label_smoothing": 1.5}, "tuning.label_smoothing=1.5"),
        (TuningSettings, {"loss": "loo", "mixup_alpha": 0.1}, "tuning.loss=cross_entropy"),
        (TuningSettings, {"loss": "loo", "norm_stats": "adaptive"}, "tuning.norm_stats=frozen"),
        (HeadSettings, {"refit": "maybe"}, "tuning.head.refit=maybe"),
        (OptimizerSettings, {"learning_rate": 0.0}, "optimizer.learning_rate=0.0"),
        (OptimizerSettings, {"layer_decay": 0.0}, "optimizer.layer_decay=0.0"),
        (OptimizerSettings, {"block_scale": -1.0}, "optimizer.block_scale=-1.0"),
        (OptimizerSettings, {"betas": (0.9, 1.0)}, "optimizer.betas=1.0"),
        (OptimizerSettings, {"betas": (0.9,)}, "optimizer.betas=[0.9]"),
        (OptimizerSettings, {"name": "sgd", "betas": (0.8, 0.9)}, "optimizer.betas=(0.8, 0.9) has no effect"),
        (OptimizerSettings, {"momentum": 0.5}, "optimizer.momentum=0.5 has no effect"),
        (OptimizerSettings, {"kwargs": {"alpha": 1}}, "optimizer._target_"),
        (OptimizerSettings, {"_target_": "torch.optim.Adam", "fused": True}, "optimizer.kwargs={fused: ...}"),
        (ScheduleSettings, {"kwargs": {"gamma": 1}}, "schedule._target_"),
        (ScheduleSettings, {"warmup_fraction": 2.0}, "schedule.warmup_fraction=2.0"),
        (TrainerSettings, {"devices": 0}, "trainer.devices=0"),
        (TrainerSettings, {"devices": 2}, "trainer=ddp"),
        (TrainerSettings, {"precision": "16-true"}, "type trainer.precision=bf16-mixed"),
        (TrainerSettings, {"precision": "16-true", "accelerator": "gpu"}, "type trainer.precision=16-mixed"),
    ],
)
def test_a_wrong_value_names_its_override(settings, values, override):
    with pytest.raises(UserError) as error:
        settings(**values)
    assert override in str(error.value)
    assert "\n" not in str(error.value)


def test_the_rates_of_blocks_go_by_the_loss_where_none_are_given():
    assert OptimizerSettings().for_loss("loo").block_scale == OptimizerSettings().for_loss("loo").layer_decay == 1.0
    careful = OptimizerSettings().for_loss("cross_entropy")
    assert (careful.block_scale, careful.layer_decay) == CROSS_ENTROPY_RATES
    given = OptimizerSettings(block_scale=0.7).for_loss("cross_entropy")
    assert (given.block_scale, given.layer_decay) == (0.7, CROSS_ENTROPY_RATES[1])
