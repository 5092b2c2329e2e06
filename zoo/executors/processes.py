"""Workers that are processes of this machine, started anew (spawn): none inherits threads, locks or a GPU's context."""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from zoo.executors.pool import Pool
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import Outcome, perform, prepare, unpacked


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: int | None = None


class ProcessPool(Pool):
    """See ``Pool``; a worker ends with its parent, after its task at the latest."""

    def __init__(self, settings: ExecutorSettings, work: Callable[[Any], Any], num_threads: int) -> None:
        super().__init__(settings, work, num_threads)
        self._workers: list[_Worker] = []

    @property
    def num_workers(self) -> int:
        return self.settings.num_local_workers

    def outcomes(self, tasks: Sequence[Any], level: int) -> Iterator[tuple[int, Outcome]]:
        waiting, losses = deque(range(len(tasks))), [0] * len(tasks)
        try:
            while waiting or self._busy():
                self._hand_out(tasks, waiting, level)
                busy = self._busy()
                for pipe in wait(list(busy)):
                    worker = busy[pipe]
                    index, worker.task = worker.task, None
                    try:
                        outcome = worker.pipe.recv()
                    except (EOFError, OSError):
                        self._workers.remove(worker)
                        losses[index] += 1
                        self.lost(tasks[index], losses[index], _end_of(worker))
                        waiting.appendleft(index)
                        continue
                    yield index, outcome
        finally:  # nobody waits any more for what is still being done
            self._end([worker for worker in self._workers if worker.task is not None])

    def close(self) -> None:
        self._end(self._workers)

    def _busy(self) -> dict[Connection, _Worker]:
        return {worker.pipe: worker for worker in self._workers if worker.task is not None}

    def _hand_out(self, tasks: Sequence[Any], waiting: deque[int], level: int) -> None:
        while waiting:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) == self.num_workers:
                    return
                idle = self._start()
            idle.task = waiting.popleft()
            with suppress(OSError):  # it is gone: its pipe says so
                idle.pipe.send((tasks[idle.task], level))

    def _end(self, workers: list[_Worker]) -> None:
        for worker in workers:
            worker.process.kill()  # what it writes appears whole or not at all
        for worker in workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = [worker for worker in self._workers if worker not in workers]

    def _start(self) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True, name="huozi worker")
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        with suppress(OSError):  # it is gone: told with its first task
            ours.send_bytes(self.packed_work)
            ours.send(self.num_threads)
        return worker


def _end_of(worker: _Worker) -> str:
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode or 0
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _serve(pipe: Connection, parent: int) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all: the parent ends its workers
    with suppress(EOFError, OSError):  # the parent is gone
        packed_work = pipe.recv_bytes()
        prepare(pipe.recv())
        work = unpacked(packed_work)
        while os.getppid() == parent:
            task, level = pipe.recv()
            pipe.send_bytes(pickle.dumps(perform(work, task, level)))
