"""Works for workers, which have to be able to import them."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doing:
    """A work: doubles numbers, and does what words say."""

    folder: Path

    def __call__(self, task: Any) -> Any:
        if task == "threads":
            return torch.get_num_threads()
        if task == "process":
            return os.getpid()
        if task == "bad":
            raise UserError("this is bad: type that")
        if task == "broken":
            raise ZeroDivisionError("nobody expected it")
        if task == "warn":
            log.warning("said once")
            return None
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "die once" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * task if isinstance(task, int) else task


def doubling(task: int) -> int:
    """As it says."""
    return 2 * task
