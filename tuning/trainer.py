"""Lightning's trainer as this project uses it, without its advice on the console."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from tuning.settings import TrainerSettings
from tuning.throughput import ChannelsLast, LoaderWatch

UNACTIONABLE = (
    r".*does not have many workers",  # the data module decides on workers: none for images in memory
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of a deprecated name of torch
    r"GPU available but not used",  # trainer=cpu says so
    r"Found \d+ module\(s\) in eval mode",  # the frozen part, on purpose
    r"Checkpoint directory .* exists and is not empty",  # true of every resumed run
)
"""Beginnings of the warnings of Lightning that are expected here."""


def build_trainer(
    settings: TrainerSettings,
    *,
    max_epochs: int = 1,
    gradient_clip_norm: float = 0.0,
    loggers: Sequence[pl.loggers.Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer that leaves sampling to the data module and checks nothing by a dry run."""
    show_bar = settings.progress_bar == "always" or (settings.progress_bar == "auto" and _in_terminal())
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulate_batches,
        deterministic=settings.deterministic,
        max_epochs=max_epochs,
        gradient_clip_val=gradient_clip_norm or None,
        logger=list(loggers) or False,
        callbacks=[*callbacks, LoaderWatch(), *([ChannelsLast()] if settings.channels_last else [])],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )


def checkpointing(directory: Path, monitor: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Writes ``best.ckpt`` by validation accuracy (the earlier of equals), and ``last.ckpt`` after every epoch.

    Two callbacks: with ``save_last`` Lightning renews the last checkpoint only when there is a new best. The order
    matters: the last checkpoint holds what the first callback knows of the best one.
    """
    common = {"dirpath": directory, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor=monitor, mode="max", **common)
    return best, ModelCheckpoint(filename="last", **common)


def averaging(decay: float) -> list[pl.Callback]:
    """The exponential moving average of the weights, if any; best and last checkpoint then hold the average."""
    return [EMAWeightAveraging(decay=decay)] if decay else []


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
