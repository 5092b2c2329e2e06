"""A look at the first epoch: rates that destroy what was learnt show there, and are told with the figures."""

from __future__ import annotations

import logging
import math

import pytorch_lightning as pl

from tuning.settings import OptimizerSettings, Recipe

log = logging.getLogger(__name__)

MIN_DROP = 0.05
MAX_GROWTH = 10


class FirstEpoch(pl.Callback):
    """Warns where validation accuracy after the first epoch is far below that of the start.

    Far is more than ``MIN_DROP`` and more than three standard errors of the difference of two shares of n images.

    Where its loss has grown to more than ``MAX_GROWTH`` times that of chance, or of the start if that is more, training
    has diverged, which is another matter.

    Args:
        start: Validation accuracy of the start.
        start_loss: Its mean cross-entropy there.
        num_images: Of validation.
        num_classes: Of the network.
        recipe: What is trained by; the message names its rates.
    """

    def __init__(self, start: float, start_loss: float, *, num_images: int, num_classes: int, recipe: Recipe) -> None:
        self._start, self._num_images, self._recipe = start, num_images, recipe
        self._start_loss, self._most = start_loss, MAX_GROWTH * max(start_loss, math.log(num_classes))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares once; the validation of the epoch is over."""
        if trainer.current_epoch > 0 or not trainer.is_global_zero:
            return
        accuracy, loss = (float(trainer.callback_metrics[f"val/{name}"]) for name in ("accuracy", "loss"))
        if loss > self._most:
            rate = self._recipe.optimizer.learning_rate
            log.warning(
                "epoch 1 took the validation loss from %.4g to %.4g: training diverges; type a smaller "
                "optimizer.learning_rate, %g or less (now %g)",
                *(self._start_loss, loss, min(rate / 10, OptimizerSettings.learning_rate), rate),
            )
            return
        if is_far_below(accuracy, self._start, self._num_images):
            log.warning(
                "epoch 1 took validation accuracy from %.4f to %.4f: what was pre-trained is being lost; %s",
                *(self._start, accuracy, self._advice()),
            )

    def _advice(self) -> str:
        optimizer = self._recipe.optimizer
        rate = f"optimizer.learning_rate={optimizer.learning_rate / 10:g} (now {optimizer.learning_rate:g})"
        if self._recipe.tuning.mode != "full":
            return f"type {rate}"
        scale = f"optimizer.block_scale={optimizer.block_scale / 10:g} (now {optimizer.block_scale:g})"
        return f"type {scale}, or {rate}, which new parts learn by, too"


def is_far_below(accuracy: float, start: float, num_images: int) -> bool:
    """Whether an accuracy lies further below another one than chance explains."""
    mean = (accuracy + start) / 2
    standard_error = math.sqrt(2 * mean * (1 - mean) / num_images)
    return start - accuracy > max(MIN_DROP, 3 * standard_error)
