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
from zoo.errors import UserError
from zoo.storage.files import atomic_path, require_whole_archive

BEST, LAST = "best.ckpt", "last.ckpt"
_RECORD, _PREFIX = "huozi", "network."
_START_OVER = "type the command again without resume to start over"


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and then puts it in its place, and reads none that is damaged.

    Lightning writes into the system's temporary directory; where that is another file system it then copies over the
    old file, which a kill or a full disk leaves cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``path``.

        Raises:
            UserError: No space, or no permission; the file that was there stays.
        """
        try:
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # of torch's own writer the second
            reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
            raise UserError(
                f"{path} could not be written ({reason}); the checkpoint of the epoch before is whole: make room on "
                "that disk, then go on with resume=DIRECTORY of the run"
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        """Reads ``path`` as ``read_checkpoint`` does."""
        return read_checkpoint(path)


class Checkpoints(pl.callbacks.Checkpoint):
    """The checkpoints of one training: ``best.ckpt``, of the best validation accuracy (the earlier of equals), and
    after every epoch ``last.ckpt``.

    The accuracy of the best is part of the last, so that a resumed run knows it, wherever its directory lies by then.

    Args:
        directory: Of the two files.
        identity: What the training is of: settings, data, networks, by name. Checkpoints of another are not gone on
            with.

    Attributes:
        norm_stats: The rule that the training follows; part of what is saved, since it was decided at the start.
    """

    def __init__(self, directory: Path, identity: Mapping[str, str]) -> None:
        self.directory, self.norm_stats = directory, "none"
        self._identity, self._best = dict(identity), -math.inf

    def resumable(self) -> str | None:
        """The rule of the statistics of a training to go on with; None where there is no last checkpoint yet.

        Raises:
            UserError: A checkpoint is damaged, or of another identity: what differs is named.
        """
        if not (self.directory / LAST).exists():
            return None
        for path in (self.directory / BEST, self.directory / LAST):
            record = read_checkpoint(path)[_RECORD]
            _require_identity(path, record["identity"], self._identity)
        return record["norm_stats"]

    def agree(self, resumed: str | None) -> str | None:
        """Takes the directory of the main process, should every process have one of its own, and its decision."""
        self.directory, resumed = broadcast((self.directory, resumed))
        return resumed

    @rank_zero_only
    def clear(self) -> None:
        """Removes the checkpoints of an earlier training; of many processes the main one does."""
        for path in self.directory.glob("*.ckpt"):
            path.unlink()

    def state(self, name: str) -> dict[str, Tensor]:
        """The trained tensors of a checkpoint under their names in the network."""
        state = read_checkpoint(self.directory / name)["state_dict"]
        return {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}

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
        trainer.save_checkpoint(self.directory / LAST)

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from it."""
        self._best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Says what the checkpoint belongs to."""
        checkpoint[_RECORD] = {"identity": self._identity, "norm_stats": self.norm_stats}


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
    if not isinstance(content, dict) or not isinstance(content.get(_RECORD), dict) or "state_dict" not in content:
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


def _shorten(value: str | None) -> str:
    if value is None:
        return "(not given)"
    return value if len(value) <= 24 else f"{value[:20]}..."
