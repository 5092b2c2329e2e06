"""A look at the first epoch: rates that destroy what was learnt show there, and are told with the figures."""

from __future__ import annotations

import logging
import math

import pytorch_lightning as pl

from tuning.settings import Recipe

log = logging.getLogger(__name__)

MIN_DROP = 0.05


class FirstEpoch(pl.Callback):
    """Warns where validation accuracy after the first epoch is far below that of the start.

    Far is more than ``MIN_DROP`` and more than three standard errors of the difference of two shares of n images.

    Args:
        start: Validation accuracy of the start.
        num_images: Of validation.
        recipe: What is trained by; the message names its rates.
    """

    def __init__(self, start: float, num_images: int, recipe: Recipe) -> None:
        self._start, self._num_images, self._recipe = start, num_images, recipe

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares once; the validation of the epoch is over."""
        if trainer.current_epoch > 0 or not trainer.is_global_zero:
            return
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        if is_far_below(accuracy, self._start, self._num_images):
            log.warning(
                "epoch 1 took validation accuracy from %.4f to %.4f: what was pre-trained is being lost; %s",
                *(self._start, accuracy, self._advice()),
            )

    def _advice(self) -> str:
        optimizer = self._recipe.optimizer
        rate = f"type optimizer.learning_rate={optimizer.learning_rate / 10:g} (now {optimizer.learning_rate:g})"
        if self._recipe.tuning.mode != "full":
            return rate
        scale = f"type optimizer.block_scale={optimizer.block_scale / 10:g} (now {optimizer.block_scale:g})"
        return f"{scale}, or tuning=freeze"


def is_far_below(accuracy: float, start: float, num_images: int) -> bool:
    """Whether an accuracy lies further below another one than chance explains."""
    mean = (accuracy + start) / 2
    standard_error = math.sqrt(2 * mean * (1 - mean) / num_images)
    return start - accuracy > max(MIN_DROP, 3 * standard_error)
