"""How training goes: a line in the log and a row for every logger, after every epoch and every so many steps."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from tuning.distributed import total

log = logging.getLogger(__name__)

Row = dict[str, float]


class Curves(pl.Callback):
    """Logs, at steps of the optimiser, and keeps what the epochs gave.

    | column | unit |
    |---|---|
    | ``epoch`` | passes over the training images that are done, a fraction inside of one |
    | ``train/loss``, ``train/accuracy`` | mean over the images of the epoch, as they were trained on |
    | ``val/loss``, ``val/accuracy`` | of the weights that are kept |
    | ``train/batch_loss`` | of the last batch, at steps inside an epoch |
    | ``train/images_per_s`` | of all processes together, waiting for images included, validation not |
    | ``train/learning_rate`` | the largest of the parameter groups, of the last step |
    | ``train/gradient_norm`` | of the last step, before clipping |
    | ``train/memory_mib`` | the most so far, 2^20 bytes: allocated on the device, on a CPU resident in the process |

    Args:
        log_every_num_steps: Steps between two rows inside an epoch; 0 logs none.

    Attributes:
        rows: Of the epochs so far, with ``step``; those before a run was resumed, too.
    """

    def __init__(self, log_every_num_steps: int) -> None:
        self.rows: list[Row] = []
        self._interval = log_every_num_steps
        self._norm: Tensor | None = None
        self._rate = 0.0
        self._logged_step = 0
        self._since_row, self._since_epoch = _Speed(), _Speed()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A row of the step that a run is resumed at was logged before."""
        self._logged_step = trainer.global_step
        self._since_row, self._since_epoch = _Speed(), _Speed()  # of an epoch that is resumed inside, the rest

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation and checkpoints are over."""
        self._since_row, self._since_epoch = _Speed(), _Speed()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Takes the gradient's norm of a step that will be logged, and the rate that it goes by."""
        if trainer.is_last_batch or self._is_due(trainer.global_step + 1):
            norms = [torch.linalg.vector_norm(p.grad) for p in pl_module.parameters() if p.grad is not None]
            self._norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else None
            self._rate = max(float(group["lr"]) for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts images; logs where it is time, but for an epoch's end, which comes after its validation."""
        for speed in (self._since_row, self._since_epoch):
            speed.num_images += len(batch[1])
        if trainer.is_last_batch:
            self._since_epoch.measure(pl_module.device)
        elif self._is_due(trainer.global_step) and trainer.global_step != self._logged_step:
            pl_module.require_finite()
            self._since_row.measure(pl_module.device)
            epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            row = {"epoch": round(epoch, 4), "train/batch_loss": float(outputs["loss"])}
            self._log(trainer, {**row, **self._state(pl_module, self._since_row)})
            self._since_row = _Speed()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch."""
        names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
        measured = {name: float(trainer.callback_metrics[name]) for name in names}
        row = {"epoch": trainer.current_epoch + 1, **measured, **self._state(pl_module, self._since_epoch)}
        self.rows.append({"step": trainer.global_step, **row})
        self._log(trainer, row)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from them."""
        self.rows = list(state_dict["rows"])

    def _is_due(self, step: int) -> bool:
        return self._interval > 0 and step % self._interval == 0

    def _state(self, pl_module: pl.LightningModule, speed: _Speed) -> Row:
        row = {
            "train/images_per_s": round(speed.images_per_s, 1),
            "train/learning_rate": self._rate,
            "train/memory_mib": round(_memory_bytes(pl_module.device) / 2**20, 1),
        }
        if self._norm is not None:
            row["train/gradient_norm"] = float(self._norm)
        return row

    def _log(self, trainer: pl.Trainer, row: Row) -> None:
        self._logged_step = trainer.global_step
        log_row(trainer.loggers, row, trainer.global_step)
        if trainer.is_global_zero:
            log.info("%s", describe(row, trainer.max_epochs, trainer.global_step))


class _Speed:
    """Images over seconds, from its making on."""

    def __init__(self) -> None:
        self.num_images, self.images_per_s = 0, 0.0
        self._started = time.perf_counter()

    def measure(self, device: torch.device) -> None:
        """Waits for the device, and adds up the images of all processes: each has to ask."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - self._started
        self.images_per_s = float(total(torch.tensor(self.num_images, device=device))) / max(seconds, 1e-9)


def log_row(loggers: Sequence[pl.loggers.Logger], row: Row, step: int) -> None:
    """Hands a row of figures to all loggers, and has them written."""
    for logger in loggers:
        logger.log_metrics(row, step=step)
        logger.save()


def describe(row: Row, num_epochs: int, step: int) -> str:
    """A row in words."""
    if "val/loss" in row:
        told = [
            f"epoch {row['epoch']:g}/{num_epochs}: loss {row['train/loss']:.4f}, accuracy {row['train/accuracy']:.4f}",
            f"validation loss {row['val/loss']:.4f}, accuracy {row['val/accuracy']:.4f}",
        ]
    else:
        told = [f"epoch {row['epoch']:.2f}/{num_epochs}, step {step}: loss {row['train/batch_loss']:.4f}"]
    parts = [
        f"{row['train/images_per_s']:.0f} images/s",
        f"learning rate {row['train/learning_rate']:.3g}",
        *([f"gradient norm {row['train/gradient_norm']:.3g}"] if "train/gradient_norm" in row else []),
        f"memory {row['train/memory_mib']:.0f} MiB",
    ]
    return "; ".join([*told, ", ".join(parts)])


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
