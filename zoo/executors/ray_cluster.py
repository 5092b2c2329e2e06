"""Workers of a Ray cluster: the one that this machine is part of, or one of this machine alone."""

from __future__ import annotations

import logging
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from zoo.errors import UserError, reason
from zoo.executors.pool import Pool
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import Outcome, perform, prepare, unpacked

_LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
_works: dict[str, Callable[[Any], Any]] = {}  # of this worker, the last one


class RayPool(Pool):
    """See ``Pool``. The work lies in Ray's object store, from where every worker takes it once.

    Args:
        settings: A number of workers bounds the tasks at once; ``auto`` leaves it to the cluster's cores.
        work: See ``Pool``.
        num_threads: See ``Pool``.
        num_gpus_per_task: That are kept free for a worker.
    """

    def __init__(
        self, settings: ExecutorSettings, work: Callable[[Any], Any], num_threads: int, num_gpus_per_task: int = 0
    ) -> None:
        super().__init__(settings, work, num_threads)
        self._num_gpus, self._key = num_gpus_per_task, uuid.uuid4().hex
        self._work: Any = None
        self._is_ours = False

    @property
    def num_workers(self) -> int:
        if self.settings.num_workers != "auto":
            return int(self.settings.num_workers)
        self._connect()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def outcomes(self, tasks: Sequence[Any], level: int) -> Iterator[tuple[int, Outcome]]:
        self._connect()
        start = ray.remote(_perform).options(num_cpus=1, num_gpus=self._num_gpus, max_retries=0)
        waiting, losses, running = deque(range(len(tasks))), [0] * len(tasks), {}
        try:
            while waiting or running:
                while waiting and len(running) < self.num_workers:
                    index = waiting.popleft()
                    running[start.remote(self._key, [self._work], self.num_threads, tasks[index], level)] = index
                for reference in ray.wait(list(running))[0]:
                    index = running.pop(reference)
                    try:
                        outcome = ray.get(reference)
                    except _LOST as error:
                        losses[index] += 1
                        self.lost(tasks[index], losses[index], type(error).__name__)
                        waiting.appendleft(index)
                        continue
                    except RayError as error:
                        raise UserError(
                            f"executor=ray: a worker cannot do {tasks[index]} ({reason(error)}): this project and its "
                            "packages have to be installed on all machines, in the same versions"
                        ) from error
                    yield index, outcome
        finally:  # nobody waits any more for what is still being done
            for reference in running:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        self._work = None
        if self._is_ours:
            self._is_ours = False
            ray.shutdown()

    def _connect(self) -> None:
        if not ray.is_initialized():
            with _own_signals():
                _initialise(self.settings)
            self._is_ours = True
        if self._work is None:
            self._work = ray.put(self.packed_work)


def _initialise(settings: ExecutorSettings) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address="auto", **quiet)  # RAY_ADDRESS, or what `ray start` began on this machine
    except ConnectionError:
        settings.require_cores()
        ray.init(address="local", num_cpus=settings.num_local_workers, include_dashboard=False, **quiet)
    except Exception as error:
        raise UserError(
            f"executor=ray: no cluster can be joined ({reason(error)}): set RAY_ADDRESS, or type executor=processes"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Leaves the handling of signals as it was: ``ray.init`` takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _perform(key: str, work: list[Any], num_threads: int, task: Any, level: int) -> Outcome:
    """A task in a worker, which takes the work out of the object store if it has not got it yet."""
    if key not in _works:
        prepare(num_threads)
        _works.clear()
        _works[key] = unpacked(ray.get(work[0]))
    return perform(_works[key], task, level)
