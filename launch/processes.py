"""Which of the processes that train together this one is; known before torch or Lightning is imported."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals

from launch import interruption
from zoo.errors import UserError

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where launchers say it, in the order in which Lightning looks."""


def is_main() -> bool:
    """Whether this is the only or the first process, which writes for all."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0) == 0


_LOST = re.compile(r"\bgloo\b|\bNCCL\b|connection (was )?(reset|closed)", re.IGNORECASE)
"""What torch says, in the words of its transports, to those that wait for a process that is gone."""

_OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"
"""Of Lightning, which ends this process by SIGKILL when another one has ended: its line is the last."""

_ENDED = re.compile(r"Child process with PID \d+ terminated with code (-?\d+)")


@contextmanager
def losses_told(*, is_shared: bool) -> Iterator[None]:
    """Within, the loss of a process that trains along is told in one line, with how to go on.

    Args:
        is_shared: Whether several processes train together; of one by itself every error is its own.

    Raises:
        UserError: From what torch said; the job's log keeps that.
    """
    logger = logging.getLogger(_OBSERVER)
    if is_shared:
        logger.addFilter(_with_advice)
    try:
        yield
    except RuntimeError as error:
        is_of_torch = type(error).__name__ in ("DistBackendError", "DistNetworkError")  # known without loading torch
        if not is_shared or not (is_of_torch or _LOST.search(str(error))):
            raise
        raise UserError(
            "a process that trained along ended (killed?) or could not be reached: its own message stands above, "
            f"torch's in job.log; {interruption.advice()}"
        ) from error
    finally:
        logger.removeFilter(_with_advice)


def _with_advice(record: logging.LogRecord) -> bool:
    """Puts in the place of Lightning's line what was lost and how to go on."""
    if ended := _ENDED.search(record.getMessage()):
        code = int(ended[1])
        how = f"was ended by {Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        record.msg, record.args = f"error: a process that trained along {how}; {interruption.advice()}", ()
    return True
