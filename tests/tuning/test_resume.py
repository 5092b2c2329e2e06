from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.settings import HeadSettings, OptimizerSettings, ScheduleSettings, TuningSettings


class Cut(Exception):
    """A power cut."""


class CutAt(pl.Callback):
    def __init__(self, epoch: int, batch: int):
        self.moment = (epoch, batch)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.moment:
            raise Cut


@pytest.mark.parametrize(
    ("settings", "moment"),
    [
        ({"loss": "loo", "mode": "full"}, (2, 0)),
        ({"loss": "loo", "mode": "freeze", "ema_decay": 0.8}, (2, 0)),
        ({"loss": "cross_entropy", "mode": "freeze", "norm_stats": "auto"}, (0, 2)),
        (
            {
                "loss": "cross_entropy",
                "mode": "full",
                "norm_stats": "adaptive",
                "ema_decay": 0.9,
                "mixup_alpha": 0.5,
                "cutmix_alpha": 1.0,
            },
            (2, 1),
        ),
    ],
)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(settings, moment, tmp_path):
    tuning = TuningSettings(num_epochs=3, guard=False, head=HeadSettings(refit="never"), **settings)
    options = {"seed": 3}
    if tuning.mixup_alpha:  # with them groups of unequal rates, and a schedule that is no formula of ours
        kwargs = {"max_lr": 0.02, "cycle_momentum": False}
        schedule = ScheduleSettings(_target_="torch.optim.lr_scheduler.OneCycleLR", kwargs=kwargs)
        optimizer = OptimizerSettings(_target_="timm.optim.Lamb", block_scale=0.3)
        options |= {"optimizer": optimizer, "schedule": schedule}
    whole, cut, resumed = StandIn(), StandIn(), StandIn()
    expected = tune(whole, Blobs(), tuning, run_dir=tmp_path / "whole", **options)
    with pytest.raises(Cut):
        tune(cut, Blobs(), tuning, run_dir=tmp_path / "cut", callbacks=[CutAt(*moment)], **options)
    result = tune(resumed, Blobs(), tuning, run_dir=tmp_path / "cut", resume=True, **options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for path in sorted((tmp_path / "whole").rglob("last.ckpt")):
        last = torch.load(path, weights_only=True)["state_dict"]
        other = torch.load(tmp_path / "cut" / path.relative_to(tmp_path / "whole"), weights_only=True)["state_dict"]
        assert all(torch.equal(tensor, other[name]) for name, tensor in last.items())
    assert result.val_losses == expected.val_losses
    assert result.test_loss == expected.test_loss
    again = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path / "cut", resume=True, **options)  # all epochs done
    assert again.val_losses == expected.val_losses


def test_checkpoints_hold_tensors_and_primitives_of_what_is_trained(tmp_path):
    network = StandIn()
    tune(
        network,
        Blobs(),
        TuningSettings(mode="freeze", loss="cross_entropy", norm_stats="adaptive", num_epochs=1),
        run_dir=tmp_path,
    )
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        modules = {key.removeprefix("network.").split(".")[0] for key in checkpoint["state_dict"]}
        assert modules == {"adapter", "head"}


def test_a_new_run_forgets_the_checkpoints_of_an_old_one(tmp_path):
    tuning = TuningSettings(mode="full", loss="loo", num_epochs=1, head=HeadSettings(refit="never"))
    first = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path)
    second = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path)
    assert second.val_losses == first.val_losses
