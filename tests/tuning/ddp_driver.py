"""Tunes the stand-in on the CPU with the given number of processes; every process writes what it ended with."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.settings import TrainerSettings, TuningSettings


def run(folder: Path, num_processes: int) -> None:
    trainer = TrainerSettings(devices=num_processes, strategy="ddp" if num_processes > 1 else "auto")
    for loss in ("loo", "cross_entropy"):
        network = StandIn(dropout=0.0)  # each process draws its own dropout
        tuning = TuningSettings(mode="freeze", loss=loss, norm_stats="frozen", num_epochs=2)
        run_dir = folder / loss
        result = tune(network, Blobs(batch_size=15), tuning, trainer=trainer, run_dir=run_dir)
        rank = os.environ.get("LOCAL_RANK", "0")
        torch.save({"network": network.state_dict(), "losses": result.val_losses}, run_dir / f"rank{rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
