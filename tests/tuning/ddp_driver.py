"""Tunes the stand-in on the CPU with the given number of processes; every process writes what it ended with."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

warnings.simplefilter("error")
sys.path.insert(0, str(Path(__file__).parent))

from tuning_stand_ins import Blobs, StandIn  # noqa: E402

from tuning.fit import tune  # noqa: E402
from tuning.settings import TrainerSettings, TuningSettings  # noqa: E402


def main(folder: Path, num_processes: int) -> None:
    torch.set_num_threads(1)
    trainer = TrainerSettings(devices=num_processes, strategy="ddp" if num_processes > 1 else "auto")
    for loss in ("loo", "cross_entropy"):
        network = StandIn(dropout=0.0)  # each process draws its own dropout
        tuning = TuningSettings(mode="freeze", loss=loss, norm_stats="frozen", num_epochs=2)
        run_dir = folder / loss
        result = tune(network, Blobs(batch_size=15), tuning, trainer=trainer, run_dir=run_dir)
        rank = os.environ.get("LOCAL_RANK", "0")
        torch.save({"network": network.state_dict(), "losses": result.val_losses}, run_dir / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
