"""How long a call takes: the one stopwatch of benchmarks of results and of latency budgets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

NUM_WARM_UPS = 3


@dataclass(frozen=True)
class Duration:
    """Of several calls, in seconds: their median and quartiles."""

    median: float
    lower_quartile: float
    upper_quartile: float


def timed_calls(call: Callable[[], Any], num_repeats: int, clock: Callable[[], float] = time.perf_counter) -> Duration:
    """Times a call that returns when its work is over, after some that are not counted.

    Args:
        call: What is timed; on a GPU it ends with ``synchronise``.
        num_repeats: Calls that are measured, 1 or more.
        clock: Seconds, of any origin.
    """
    for _ in range(NUM_WARM_UPS):
        call()
    seconds = []
    for _ in range(num_repeats):
        start = clock()
        call()
        seconds.append(clock() - start)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if num_repeats > 1 else seconds * 3
    return Duration(median, low, high)


def synchronise(device: torch.device) -> None:
    """Waits until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """So many threads on the CPU inside the ``with``."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
