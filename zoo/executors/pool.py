"""What all kinds of workers have in common: results as they come, errors raised here, lines of the log said here."""

from __future__ import annotations

import logging
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zoo.errors import UserError, reason
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import Outcome, RemoteTracebackError

log = logging.getLogger(__name__)

MAX_LOSSES = 3
"""Workers that one task may lose before it is given up."""


class Pool(ABC):
    """Workers that all do one work.

    Args:
        settings: Which workers, and how many.
        work: A picklable function of a task, whose results are picklable and small.
        num_threads: That every worker computes with.

    Raises:
        UserError: The work cannot be sent.
    """

    def __init__(self, settings: ExecutorSettings, work: Callable[[Any], Any], num_threads: int) -> None:
        self.settings, self.num_threads = settings, num_threads
        try:
            self.packed_work = pickle.dumps(work)
        except Exception as error:
            raise UserError(
                f"executor={settings.name}: what workers need cannot be sent to them ({reason(error)}): type "
                "executor=serial, or make data sets and networks of functions that can be imported"
            ) from error

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """Tasks that run at once."""

    @abstractmethod
    def outcomes(self, tasks: Sequence[Any], level: int) -> Iterator[tuple[int, Outcome]]:
        """The outcome of every task with its index, as they come; a task whose worker is lost runs again."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers, whatever they do; may be called twice."""

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """The result of every task with its index, as they come; a ``UserError`` is a result.

        Raises:
            Exception: What a task raised, if it is no ``UserError``, with the worker's traceback as its cause.
            UserError: A task lost ``MAX_LOSSES`` workers.
        """
        said = set()
        for index, outcome in self.outcomes(tasks, logging.getLogger().getEffectiveLevel()):
            for line in outcome.lines:
                if line not in said:  # which every worker would say once
                    said.add(line)
                    name, level, text = line
                    logging.getLogger(name).log(level, "%s", text)
            if outcome.told:
                assert outcome.error is not None
                raise outcome.error from RemoteTracebackError(f"\n{outcome.told}")
            yield index, outcome.error or outcome.value

    def lost(self, task: Any, count: int, why: str) -> None:
        """Says that a worker was lost that did a task.

        Raises:
            UserError: It was one too many.
        """
        if count >= MAX_LOSSES:
            raise UserError(
                f"executor={self.settings.name}: {task} lost {count} workers ({why}; the system ends processes when "
                "memory runs out): type a smaller executor.num_workers, or executor=serial"
            )
        log.warning("%s: its worker was lost (%s); it runs again", task, why)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
