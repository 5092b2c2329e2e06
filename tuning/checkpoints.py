"""Checkpoints of a training: each replaces the one before it whole, says what it belongs to, and is read checked."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from tuning.distributed import broadcast
from tuning.settings import CheckpointSettings
from tuning.sharded_files import SHARDS, read_tensors, remove
from zoo.errors import UserError
from zoo.storage.files import atomic_path, require_whole_archive

BEST, LAST = "best.ckpt", "last.ckpt"
RECORD = "huozi"
"""What a checkpoint says of itself: what it is of, where in the training it was made, and what lies beside it."""
_PREFIX = "network."
_OF_WEIGHTS = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", RECORD, SHARDS)
_START_OVER = "type the command again without resume to start over"


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and then puts it in its place, and reads none that is damaged.

    Lightning writes into the system's temporary directory; where that is another file system it then copies over the
    old file, which a kill or a full disk leaves cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``path``; what is needed to go on goes into ``last.ckpt`` alone.

        Raises:
            UserError: No space, or no permission; the file that was there stays.
        """
        try:
            with atomic_path(path) as temporary:
                torch.save(contents_of(checkpoint, path), temporary)
        except (OSError, RuntimeError) as error:  # of torch's own writer the second
            raise could_not_write(path, error) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        """Reads ``path`` as ``read_checkpoint`` does."""
        return read_checkpoint(path)


def contents_of(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """What a file of this name holds of a checkpoint: all that is needed to go on ``last.ckpt`` alone."""
    is_last = Path(path).name == LAST
    return checkpoint if is_last else {key: checkpoint[key] for key in _OF_WEIGHTS if key in checkpoint}


def could_not_write(path: str | Path, error: Exception) -> UserError:
    """The line that says so."""
    reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
    if "inline_container" in reason:  # the library's writer of archives, which does not pass on what the system said
        reason = "no more than a part of it"
    advice = "there is none before it: make room on that disk, then type the command again"
    if Path(path).with_name(LAST).exists():
        advice = "the one before it is whole: make room on that disk, then go on with resume=DIRECTORY of the run"
    return UserError(f"the checkpoint {path} could not be written ({reason}); {advice}")


class Checkpoints(pl.callbacks.Checkpoint):
    """The checkpoints of one training: ``best.ckpt``, of the best validation accuracy (the earlier of equals), the
    weights of the epochs that are kept, and ``last.ckpt``, to go on from: after every epoch and inside it.

    What lies beside the last is part of it, so that a resumed run knows it, wherever its directory lies by then.

    Args:
        directory: Of the files.
        identity: What the training is of: settings, data, networks, by name. Checkpoints of another are not gone on
            with.
        settings: What is kept, and how often the last is written.

    Attributes:
        norm_stats: The rule that the training follows; part of what is saved, since it was decided at the start.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, str], settings: CheckpointSettings | None = None
    ) -> None:
        self.directory, self.norm_stats = directory, "none"
        self._identity, self._settings = dict(identity), settings or CheckpointSettings()
        self._best = -math.inf
        self._kept: dict[int, float] = {}  # validation accuracy by epoch, from 1
        self._saved_step = 0

    def resumable(self, *, in_shards: bool) -> dict[str, Any] | None:
        """The record of a training to go on with; None where there is no last checkpoint yet.

        Args:
            in_shards: Whether the training that goes on is.

        Returns:
            ``norm_stats``, the rule of its statistics, and ``epoch`` and ``batch``, both from 0, that come next.

        Raises:
            UserError: A checkpoint is damaged, of another identity (what differs is named), or was written in shards
                where the training is not, or the other way round.
        """
        if not (self.directory / LAST).exists():
            return None
        last = read_checkpoint(self.directory / LAST)
        record = last[RECORD]
        if (SHARDS in last) != in_shards:
            told = "whole, type a trainer other than fsdp2" if in_shards else "in shards, type trainer=fsdp2"
            raise UserError(f"{self.directory / LAST} was written {told}; or {_START_OVER}")
        beside = {name: read_checkpoint(self.directory / name)[RECORD] for name in record["beside"]}
        for name, found in {**beside, LAST: record}.items():
            _require_identity(self.directory / name, found["identity"], self._identity)
        return {name: record[name] for name in ("norm_stats", "epoch", "batch")}

    def agree(self, resumed: dict[str, Any] | None) -> dict[str, Any] | None:
        """Takes the directory of the main process, should every process have one of its own, and its decision."""
        self.directory, resumed = broadcast((self.directory, resumed))
        return resumed

    @rank_zero_only
    def clear(self) -> None:
        """Removes the checkpoints of an earlier training; of many processes the main one does."""
        for path in self.directory.glob("*.ckpt"):
            remove(path)

    def state(self, name: str) -> dict[str, Tensor]:
        """The trained tensors of a checkpoint under their names in the network; whole, however they were written."""
        state = read_tensors(read_checkpoint(self.directory / name), self.directory / name)["state_dict"]
        return {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}

    @property
    def kept(self) -> list[str]:
        """Names of the checkpoints of the epochs that are kept, in the order of these."""
        return [_name(epoch) for epoch in sorted(self._kept)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the last after every so many steps; at the end of an epoch that is done after its validation.

        Between the batches of one step nothing is written, so that there are no gradients to keep.
        """
        step, interval = trainer.global_step, self._settings.every_num_steps
        if interval and step % interval == 0 and step != self._saved_step and not trainer.is_last_batch:
            pl_module.require_finite()
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes; the validation of the epoch is over.

        Raises:
            UserError: The validation loss is not finite.
        """
        loss, accuracy = (float(trainer.callback_metrics[f"val/{name}"]) for name in ("loss", "accuracy"))
        if not math.isfinite(loss):
            raise UserError(
                f"the validation loss is {loss} after epoch {trainer.current_epoch}: type a smaller "
                "optimizer.learning_rate, or tuning.norm_stats=frozen"
            )
        if accuracy > self._best:
            self._best = accuracy
            trainer.save_checkpoint(self.directory / BEST)
        epoch, before = trainer.current_epoch + 1, set(self._kept)
        self._kept = self._choose({**self._kept, epoch: accuracy})
        if epoch in self._kept:
            trainer.save_checkpoint(self.directory / _name(epoch))
        self._save_last(trainer)
        if trainer.is_global_zero:
            for dropped in before - set(self._kept):
                remove(self.directory / _name(dropped))

    def state_dict(self) -> dict[str, Any]:
        """What there is so far."""
        return {"best": self._best, "kept": self._kept, "step": self._saved_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from it."""
        self._best, self._kept, self._saved_step = (state_dict[name] for name in ("best", "kept", "step"))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Says what the checkpoint belongs to, and what comes after it."""
        epochs = trainer.fit_loop.epoch_progress.current
        is_inside = epochs.processed == epochs.completed  # at the end of an epoch it is processed, not yet completed
        checkpoint[RECORD] = {
            "identity": self._identity,
            "norm_stats": self.norm_stats,
            "epoch": epochs.processed,
            "batch": trainer.fit_loop.epoch_loop.batch_progress.current.processed if is_inside else 0,
            "beside": [*([BEST] if self._best > -math.inf else []), *self.kept],
        }

    def _choose(self, epochs: dict[int, float]) -> dict[int, float]:
        """The epochs to keep of those so far."""
        rank = (lambda epoch: (-epochs[epoch], epoch)) if self._settings.keep == "best" else (lambda epoch: -epoch)
        return {epoch: epochs[epoch] for epoch in sorted(epochs, key=rank)[: self._settings.num_kept]}

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.directory / LAST)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint, on the CPU: tensors and plain values, no code.

    Raises:
        UserError: It is missing, damaged, or none of ours.
    """
    try:
        require_whole_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError as error:
        raise UserError(f"{error}; {_START_OVER}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no checkpoint of tensors and plain values; {_START_OVER}") from error
    if not isinstance(content, dict) or not isinstance(content.get(RECORD), dict) or "state_dict" not in content:
        raise UserError(f"{path}: no checkpoint of this version of Huozi; {_START_OVER}")
    return content


def _require_identity(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differing = [
        f"{key} {_shorten(found.get(key))} -> {_shorten(wanted.get(key))}"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        more = f" (+{len(differing) - 8} more)" if len(differing) > 8 else ""
        raise UserError(
            f"{path} is of another training: {', '.join(differing[:8])}{more}; resume goes on with what was begun and "
            f"nothing else: {_START_OVER}"
        )


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.ckpt"


def _shorten(value: str | None) -> str:
    if value is None:
        return "(not given)"
    return value if len(value) <= 24 else f"{value[:20]}..."
