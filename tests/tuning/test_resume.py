from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from datamodules import ImageDataModule
from datamodules.images import ImagesInMemory
from tuning.fit import tune
from tuning.metrics_file import MetricsFile
from tuning.settings import (
    CheckpointSettings,
    EarlyStoppingSettings,
    HeadSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainerSettings,
    TuningSettings,
)
from zoo.entries import InputSpec


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


def varied_blobs(num_workers: int) -> ImageDataModule:
    """The images of ``Blobs``, augmented by our own data module; 4 batches of 12 or 13 images an epoch."""
    images, labels = (torch.cat(column) for column in zip(*Blobs().splits.values(), strict=True))
    at = torch.arange(len(labels)).split([50, 40, 40])
    data = ImageDataModule(
        name="blobs",
        source=ImagesInMemory(((images + 3) / 8).clamp(0, 1), labels),
        splits=dict(zip(("train", "val", "test"), at, strict=True)),
        class_names=["0", "1", "2"],
        batch_size=16,
        augmentation="affine",
        crop="random_padded",
        brightness=0.3,
        erasing=0.5,
        num_workers=num_workers,
    )
    data.use_input(InputSpec(1, 8, 8, (0.4,), (0.2,)))
    return data


EVERYTHING = {
    "loss": "cross_entropy",
    "mode": "full",
    "norm_stats": "adaptive",
    "ema_decay": 0.9,
    "mixup_alpha": 0.5,
    "cutmix_alpha": 1.0,
}


@pytest.mark.parametrize(
    ("settings", "every", "accumulate", "num_workers", "moment", "at"),
    [
        (EVERYTHING, 1, 2, 0, (1, 3), (1, 2)),  # inside a group of batches: from the step before it
        (EVERYTHING, 1, 3, 1, (1, 3), (1, 3)),  # before the group of one batch that is left
        (EVERYTHING, 5, 1, 1, (2, 0), (2, 0)),  # between epochs, with workers that load ahead
        ({"loss": "loo", "mode": "freeze"}, 2, 1, 0, (0, 3), (0, 2)),  # before anything was validated
    ],
)
def test_a_run_resumed_inside_an_epoch_gives_the_numbers_of_an_uninterrupted_one(
    settings, every, accumulate, num_workers, moment, at, tmp_path
):
    tuning = TuningSettings(
        num_epochs=3,
        guard=False,
        head=HeadSettings(refit="never"),
        checkpoints=CheckpointSettings(every_num_steps=every, num_kept=2, average=True),
        early_stopping=EarlyStoppingSettings(patience=2, monitor="val_loss"),
        **settings,
    )
    trainer = TrainerSettings(accumulate_batches=accumulate, log_every_num_steps=2)

    def run(name, network, **options):
        loggers = [MetricsFile(tmp_path / f"{name}.csv", resume=options.get("resume", False))]
        data = varied_blobs(num_workers)
        return tune(network, data, tuning, run_dir=tmp_path / name, seed=3, trainer=trainer, loggers=loggers, **options)

    whole, cut, resumed = StandIn(), StandIn(), StandIn()
    expected = run("whole", whole)
    with pytest.raises(Cut):
        run("cut", cut, callbacks=[CutAt(*moment)])
    record = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["huozi"]
    assert (record["epoch"], record["batch"]) == at
    result = run("cut", resumed, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for name in ("val_losses", "test_loss", "epochs"):
        assert getattr(result, name) == getattr(expected, name)
    assert same_but_speed(result.curves) == same_but_speed(expected.curves)
    files, others = (sorted(p.name for p in (tmp_path / name / "checkpoints").iterdir()) for name in ("whole", "cut"))
    assert files == others
    optimizers = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(optimizers[0][i]["exp_avg"], optimizers[1][i]["exp_avg"]) for i in optimizers[0])
    rows = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("whole", "cut")]
    assert [row.split(",")[0] for row in rows[0]] == [row.split(",")[0] for row in rows[1]]


def same_but_speed(rows):
    return [{k: v for k, v in row.items() if k not in ("train/images_per_s", "train/memory_mib")} for row in rows]


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
