"""Lightning's trainer as this project uses it, without its advice on the console."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import Strategy

from tuning.checkpoints import CheckpointFiles
from tuning.settings import TrainerSettings
from tuning.throughput import ActivationCheckpoints, ChannelsLast, Compiled, LoaderWatch
from zoo.errors import UserError
from zoo.limits import shown
from zoo.storage.records import neighbours

UNACTIONABLE = (
    r".*does not have many workers",  # the data module decides on workers: none for images in memory
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of a deprecated name of torch
    r"GPU available but not used",  # trainer=cpu says so
    r"Found \d+ module\(s\) in eval mode",  # the frozen part, on purpose
    r"You're resuming from a checkpoint that ended before the epoch",  # IndexedData.start_at passes over its batches
)
"""Beginnings of the warnings of Lightning that are expected here."""


def build_trainer(
    settings: TrainerSettings,
    directory: Path,
    *,
    max_epochs: int = 1,
    gradient_clip_norm: float = 0.0,
    loggers: Sequence[pl.loggers.Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer that leaves sampling to the data module and checks nothing by a dry run.

    Args:
        settings: Where it runs.
        directory: Of its checkpoints.
        max_epochs: Passes over the training images.
        gradient_clip_norm: Largest norm of the gradient; 0 switches clipping off.
        loggers: Receive the metrics.
        callbacks: Its own and a caller's.
    """
    show_bar = settings.progress_bar == "always" or (settings.progress_bar == "auto" and _in_terminal())
    check_extra(settings)
    return pl.Trainer(
        # gathering shards counts versions of tensors, which inference mode does not keep
        **{"inference_mode": settings.strategy != "fsdp2", **settings.extra},
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        sync_batchnorm=settings.sync_batchnorm,
        benchmark=settings.benchmark or None,
        strategy=lightning_strategy(settings),
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulate_batches,
        deterministic=settings.deterministic,
        max_epochs=max_epochs,
        gradient_clip_val=gradient_clip_norm or None,
        logger=list(loggers) or False,
        callbacks=[*callbacks, OwnSignals(), LoaderWatch(), *_for_speed(settings)],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        plugins=[CheckpointFiles()],
        default_root_dir=directory,  # where Lightning under SLURM looks for a checkpoint of its own to go on with
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )


def check_nodes(settings: TrainerSettings) -> None:
    """Refuses several machines where nothing says which one this is: each would wait for the others for ever.

    Raises:
        UserError: It was not started by ``torchrun``, SLURM, LSF or MPI, as Lightning finds them, nor by hand with
            ``NODE_RANK`` and the address or the port of the first machine.
    """
    if settings.num_nodes == 1:
        return
    by_hand = os.environ.keys() & {"NODE_RANK", "GROUP_RANK"} and os.environ.keys() & {"MASTER_ADDR", "MASTER_PORT"}
    launchers = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    if not by_hand and not any(launcher.detect() for launcher in launchers):
        raise UserError(
            f"trainer.num_nodes={settings.num_nodes}: start the command with torchrun or srun on every machine "
            "(docs/scale.md), or type trainer.num_nodes=1"
        )


def lightning_strategy(settings: TrainerSettings) -> str | Strategy:
    """What Lightning's trainer takes: a name that it knows, or ours."""
    if settings.strategy != "fsdp2":
        return settings.strategy
    from tuning.sharded_strategy import ShardedStrategy

    return ShardedStrategy()


def _for_speed(settings: TrainerSettings) -> list[pl.Callback]:
    asked = {
        ChannelsLast: settings.channels_last,
        ActivationCheckpoints: settings.activation_checkpointing,
        Compiled: settings.compile,
    }
    return [kind() for kind, is_asked in asked.items() if is_asked]


def check_extra(settings: TrainerSettings) -> None:
    """Refuses what Lightning's ``Trainer`` does not take, what is set elsewhere, and what training cannot do with.

    Raises:
        UserError: The key, and its neighbours.
    """
    taken = inspect.signature(pl.Trainer).parameters.keys() - _OURS
    for name, value in settings.extra.items():
        if name in _OURS:
            raise UserError(f"trainer.extra.{name}={shown(value)} is set by other keys: leave it out")
        if name not in taken:
            raise UserError(f"trainer.extra.{name}={shown(value)} is not taken: {neighbours(name, sorted(taken))}")
        if name in _INSTEAD:
            raise UserError(
                f"trainer.extra.{name}={shown(value)}: an epoch ends with a validation here, and figures are of whole "
                f"splits: {_INSTEAD[name]}"
            )
        if name == "limit_train_batches" and value == 0:
            raise UserError(f"trainer.extra.{name}={shown(value)} trains nothing: type tuning.num_epochs=0")


_OURS = {
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "accumulate_grad_batches", "deterministic"),
    *("sync_batchnorm", "benchmark", "max_epochs", "gradient_clip_val", "logger", "callbacks", "plugins"),
    *("enable_checkpointing", "default_root_dir", "enable_progress_bar", "enable_model_summary"),
    *("num_sanity_val_steps", "log_every_n_steps", "use_distributed_sampler"),
}
"""Arguments of Lightning's trainer that ``build_trainer`` gives."""
_INSTEAD = {
    **dict.fromkeys(("fast_dev_run", "overfit_batches", "barebones"), "type debug=quick for a trial of one epoch"),
    **dict.fromkeys(("limit_val_batches", "limit_test_batches"), "type debug=quick for a trial of one epoch"),
    **dict.fromkeys(("max_steps", "max_time"), "type tuning.num_epochs=..."),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), "leave it out"),
}
"""Arguments with which an epoch ends before its validation or without one, or figures are of a part of a split."""


class OwnSignals(pl.Callback):
    """Leaves SIGTERM to whoever handles it: Lightning's own handler waits for processes that may be gone."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remembers the handler."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts it back, now that Lightning has registered its own."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    on_validation_start = on_test_start = on_train_start


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what Lightning says that no one here can act on: device lists, tips, its own use of old torch names."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in UNACTIONABLE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _in_terminal() -> bool:
    return sys.stderr.isatty() and "CI" not in os.environ
