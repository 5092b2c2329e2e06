"""What happens in a worker: a task is done, and all that it has to say, errors too, comes back as a value."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo import threads
from zoo.errors import UserError, reason

Line = tuple[str, int, str]
"""Name of the logger, level, text."""


@dataclass(frozen=True)
class Outcome:
    """Of a task.

    Attributes:
        value: What the work returned, small.
        error: What it raised instead.
        told: The traceback of an error that is none of the user.
        lines: What it logged.
    """

    value: Any = None
    error: BaseException | None = None
    told: str = ""
    lines: tuple[Line, ...] = ()


class RemoteTracebackError(Exception):
    """Where in a worker an error was raised, as its cause."""


def perform(work: Callable[[Any], Any], task: Any, level: int) -> Outcome:
    """Does a task.

    Args:
        work: Of the worker.
        task: What it is called with.
        level: Of what is logged the least that is brought back.
    """
    with _Listening(level) as heard:
        try:
            return Outcome(work(task), lines=tuple(heard.lines))
        except UserError as error:
            return Outcome(error=UserError(str(error)), lines=tuple(heard.lines))
        except Exception as error:  # noqa: BLE001 raised where the result is awaited
            return Outcome(error=_sendable(error), told=traceback.format_exc(), lines=tuple(heard.lines))


def prepare(num_threads: int) -> None:
    """Makes a worker compute as the process that sends the tasks does: the last bits depend on how many threads do."""
    threads.prepare()

    import torch

    torch.set_num_threads(num_threads)


def unpacked(packed: bytes) -> Callable[[Any], Any]:
    """The work as a worker has it; where it cannot be had, one that raises in every task why.

    Args:
        packed: From the process that started this worker, through its pipe or its cluster; never from a file.
    """
    try:
        return pickle.loads(packed)
    except Exception as error:  # noqa: BLE001 told as the task's error
        found = error

        def refuse(task: Any) -> None:
            raise found

        return refuse


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 whatever an exception of others does when it is pickled
        return RuntimeError(reason(error))
    return error


class _Listening(logging.Handler):
    """Collects what is logged inside the ``with``."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))

    def __enter__(self) -> _Listening:
        root = logging.getLogger()
        self._before = root.handlers, root.level
        root.handlers, root.level = [self], self.level
        logging.Logger.manager._clear_cache()
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.handlers, root.level = self._before
        logging.Logger.manager._clear_cache()
