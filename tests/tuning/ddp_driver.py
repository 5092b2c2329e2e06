"""Tunes the stand-in on the CPU with the given number of processes; every process writes what it ended with."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from tuning_stand_ins import Blobs, StandIn, Tied

from tuning.fit import tune
from tuning.reference import Reference
from tuning.settings import (
    CheckpointSettings,
    EarlyStoppingSettings,
    OptimizerSettings,
    TrainerSettings,
    TuningSettings,
)
from zoo.chain import Costs
from zoo.entries import InputSpec

CASES = {
    "loo": TuningSettings(mode="freeze", loss="loo", norm_stats="frozen", num_epochs=2),
    "cross_entropy": TuningSettings(mode="freeze", loss="cross_entropy", norm_stats="frozen", num_epochs=2),
    "averaged": TuningSettings(mode="freeze", loss="loo", norm_stats="frozen", num_epochs=2, ema_decay=0.7),
    "loop": TuningSettings(
        mode="freeze",
        loss="cross_entropy",
        norm_stats="frozen",
        num_epochs=4,
        early_stopping=EarlyStoppingSettings(patience=1, monitor="val_loss", min_delta=10.0),
        checkpoints=CheckpointSettings(num_kept=2, average=True, every_num_steps=1),
    ),
    "own_directories": TuningSettings(mode="freeze", loss="loo", norm_stats="frozen", num_epochs=2),
    "streamed": TuningSettings(
        mode="freeze", loss="cross_entropy", norm_stats="frozen", num_epochs=1, max_cache_bytes=0
    ),
    "warm_up": TuningSettings(mode="freeze", num_epochs=0, warmup="feature_matching", warmup_epochs=3),
    "taught": TuningSettings(mode="freeze", loss="cross_entropy", norm_stats="frozen", num_epochs=2),
    "inherited": TuningSettings(mode="freeze", loss="cross_entropy", norm_stats="frozen", num_epochs=2),
    "tied": TuningSettings(mode="full", loss="cross_entropy", norm_stats="frozen", num_epochs=2, ema_decay=0.5),
    "adaptive": TuningSettings(mode="full", loss="cross_entropy", norm_stats="adaptive", num_epochs=2, guard=False),
}
"""``own_directories``: as the search tunes its finalists, each process has a temporary directory of its own.
``inherited``: one row of the head is learnt already, the others are solved beside it. ``adaptive``:
statistics are those of the first process's images."""
IN_SHARDS = ("loop", "own_directories", "warm_up", "tied", "adaptive", "interrupted")
INPUT = InputSpec(1, 8, 8, (0.0,), (1.0,))


def reference(network: nn.Module) -> Reference:
    return Reference("reference", network.eval(), INPUT, Costs(1, 1), ("0", "1", "2"))


class Watch(pl.Callback):
    """Breaks a training off in its second epoch; and what is frozen of what was trained, it says, is as it was."""

    def __init__(self, network: nn.Module, *, breaks_off: bool):
        self.network, self.breaks_off = network, breaks_off

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.breaks_off and (trainer.current_epoch, batch_idx) == (1, 2):
            raise Broken

    def on_train_end(self, trainer, pl_module):
        frozen = self.network.state_dict().keys() - self.network.trained_state().keys()
        for name, tensor in pl_module.network.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            assert name not in frozen or torch.equal(whole, self.network.state_dict()[name]), name


class Broken(Exception):
    pass


def run(folder: Path, num_processes: int, strategy: str) -> None:
    for name in CASES if strategy != "fsdp2" else IN_SHARDS:
        is_interrupted = name == "interrupted"
        tuning = CASES["loop" if is_interrupted else name]
        accumulated = 2 if name == "loop" or is_interrupted else 1
        trainer = TrainerSettings(devices=num_processes, strategy=strategy, accumulate_batches=accumulated)
        rank = os.environ.get("LOCAL_RANK", "0")
        run_dir = folder / name / rank if name == "own_directories" else folder / name
        checkpoints = run_dir / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        for stale in ("best.ckpt", "last.ckpt"):  # of an earlier training, which a new one must not look at
            if not (checkpoints / stale).exists():
                (checkpoints / stale).write_bytes(b"old")
        for is_last in (False, True) if is_interrupted else (True,):
            network = Tied() if name == "tied" else StandIn(dropout=0.0)  # each process draws its own dropout
            for tensor in network.state_dict().values():  # closed forms on other hardware, greatly enlarged
                tensor += int(rank)
            with nullcontext() if is_last else suppress(Broken):
                result = tune(
                    network,
                    Blobs(batch_size=15),
                    tuning,
                    optimizer=OptimizerSettings(gradient_clip_norm=0.5 if name == "tied" else 0.0),
                    trainer=trainer,
                    run_dir=run_dir,
                    home=reference(nn.Sequential(*StandIn(seed=3).stages())),
                    teacher=reference(StandIn(seed=5)) if name == "taught" else None,
                    learnt_rows=[1] if name == "inherited" else [],
                    callbacks=[Watch(network, breaks_off=not is_last)],
                    resume=is_interrupted and is_last,
                )
        torch.save(
            {"network": network.state_dict(), "losses": result.val_losses, "epochs": result.epochs},
            folder / name / f"rank{rank}.pt",
        )


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for strategy in sys.argv[3:]:
        run(Path(sys.argv[1]) / strategy, int(sys.argv[2]), strategy)
