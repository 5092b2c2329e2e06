"""Early stopping on the validation split."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from tuning.settings import EarlyStoppingSettings

log = logging.getLogger(__name__)


class StopEarly(EarlyStopping):
    """Lightning's early stopping by the settings: looked at after every epoch, and kept to by a run that is resumed.

    Args:
        settings: With a ``patience``.
    """

    def __init__(self, settings: EarlyStoppingSettings) -> None:
        assert settings.patience is not None
        self._settings = settings
        super().__init__(
            settings.monitor.replace("_", "/"),
            min_delta=settings.min_delta,
            patience=settings.patience,
            mode="max" if settings.monitor == "val_accuracy" else "min",
            check_finite=False,  # our checkpoints refuse what is not
            check_on_train_epoch_end=True,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A training that had stopped before it was resumed stays stopped; Lightning would go on for an epoch."""
        trainer.should_stop = self.wait_count >= self.patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops, and says so."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.should_stop and trainer.is_global_zero and trainer.current_epoch + 1 < trainer.max_epochs:
            rule = f" by more than {self._settings.min_delta:g}" if self._settings.min_delta else ""
            log.info(
                "stopped after epoch %d of %d: %s %.4f was not improved on%s in %d epochs",
                *(trainer.current_epoch + 1, trainer.max_epochs, self._settings.monitor, float(self.best_score)),
                *(rule, self.wait_count),
            )
