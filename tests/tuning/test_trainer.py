from __future__ import annotations

import os

import pytest

from tuning.settings import TrainerSettings
from tuning.trainer import build_trainer, check_extra, check_nodes
from zoo.errors import UserError


def environment(monkeypatch, names):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PATH", "")  # Lightning warns where there is an srun


@pytest.mark.parametrize("names", [(), ("MASTER_ADDR", "MASTER_PORT"), ("NODE_RANK",)], ids=" ".join)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_several_machines_without_a_launcher_are_refused(strategy, names, monkeypatch):
    environment(monkeypatch, names)
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2: start the command with torchrun or srun"):
        check_nodes(TrainerSettings(strategy=strategy, num_nodes=2))
    check_nodes(TrainerSettings(strategy=strategy))


@pytest.mark.parametrize(
    "names",
    [
        ("TORCHELASTIC_RUN_ID",),
        ("SLURM_NTASKS",),
        ("LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"),
        ("MASTER_ADDR", "NODE_RANK"),
        ("MASTER_PORT", "GROUP_RANK"),
    ],
    ids=" ".join,
)
def test_several_machines_are_taken_as_lightning_finds_them(names, monkeypatch):
    environment(monkeypatch, names)
    check_nodes(TrainerSettings(strategy="ddp", num_nodes=2))


@pytest.mark.parametrize(
    ("extra", "instead"),
    [
        ({"fast_dev_run": True}, "debug=quick"),
        ({"limit_val_batches": 0}, "debug=quick"),
        ({"limit_test_batches": 1}, "debug=quick"),
        ({"max_steps": 1}, "tuning.num_epochs"),
        ({"check_val_every_n_epoch": 2}, "leave it out"),
        ({"limit_train_batches": 0}, "tuning.num_epochs=0"),
    ],
)
def test_what_would_end_an_epoch_without_its_validation_is_refused(extra, instead):
    (name,) = extra
    with pytest.raises(UserError, match=rf"trainer\.extra\.{name}=.*{instead}"):
        check_extra(TrainerSettings(extra=extra))


def test_what_training_can_do_with_is_taken():
    check_extra(TrainerSettings(extra={"limit_train_batches": 0.5, "detect_anomaly": True, "min_epochs": 1}))


def test_shards_are_never_gathered_in_inference_mode_which_keeps_no_versions(tmp_path):
    trainers = [build_trainer(TrainerSettings(strategy=name), tmp_path) for name in ("auto", "fsdp2")]
    assert [trainer.validate_loop.inference_mode for trainer in trainers] == [True, False]
