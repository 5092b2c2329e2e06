"""Tunes the stand-in on the CPU with the given number of processes; every process writes what it ended with."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.reference import Reference
from tuning.settings import CheckpointSettings, EarlyStoppingSettings, TrainerSettings, TuningSettings
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
}
"""``own_directories``: as the search tunes its finalists, each process has a temporary directory of its own.
``inherited``: one row of the head is learnt already, the others are solved beside it."""
INPUT = InputSpec(1, 8, 8, (0.0,), (1.0,))


def reference(network: nn.Module) -> Reference:
    return Reference("reference", network.eval(), INPUT, Costs(1, 1), ("0", "1", "2"))


def run(folder: Path, num_processes: int) -> None:
    for name, tuning in CASES.items():
        strategy, accumulated = "ddp" if num_processes > 1 else "auto", 2 if name == "loop" else 1
        trainer = TrainerSettings(devices=num_processes, strategy=strategy, accumulate_batches=accumulated)
        network = StandIn(dropout=0.0)  # each process draws its own dropout
        rank = os.environ.get("LOCAL_RANK", "0")
        for tensor in network.state_dict().values():  # closed forms on other hardware, greatly enlarged
            tensor += int(rank)
        run_dir = folder / name / rank if name == "own_directories" else folder / name
        checkpoints = run_dir / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        for stale in ("best.ckpt", "last.ckpt"):  # of an earlier training, which a new one must not look at
            if not (checkpoints / stale).exists():
                (checkpoints / stale).write_bytes(b"old")
        result = tune(
            network,
            Blobs(batch_size=15),
            tuning,
            trainer=trainer,
            run_dir=run_dir,
            home=reference(nn.Sequential(*StandIn(seed=3).stages())),
            teacher=reference(StandIn(seed=5)) if name == "taught" else None,
            learnt_rows=[1] if name == "inherited" else [],
        )
        torch.save(
            {"network": network.state_dict(), "losses": result.val_losses, "epochs": result.epochs},
            folder / name / f"rank{rank}.pt",
        )


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
