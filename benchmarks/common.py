"""What several benchmarks need."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from launch.errors import CONF
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import write_json, write_text

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def embedded_zoo() -> Zoo:
    """The zoo that is part of the project."""
    return read_zoo(CONF / "zoo" / "embedded.yaml")


def timed(function: Callable[..., T], *arguments, **options) -> tuple[float, T]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each; an error or Ctrl-C, which this process alone hears, ends them at once."""
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which processes inherit that are started now
    try:
        for _ in range(count):
            pool.submit(os.getpid)  # starts one
    finally:
        signal.signal(signal.SIGINT, heard)
    try:
        yield pool
    except BaseException:
        own = set(multiprocessing.active_children()) - set(others)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in own:
            process.terminate()
        raise
    finally:
        pool.shutdown()


def publish(name: str, reading: str, rows: Sequence[dict[str, Any]], directory: Path = RESULTS) -> str:
    """Writes ``NAME.json``, the rows as they are, and ``NAME.md``, one table under what it says; returns the latter.

    Args:
        name: Of the benchmark, as in ``python -m benchmarks.NAME``.
        reading: What the table says.
        rows: Of the same keys, which are the columns.
    """
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f} at the end."
    lines = [
        f"`python -m benchmarks.{name}`: {reading} {machine}",
        "",
        f"| {' | '.join(rows[0])} |",
        "|---" * len(rows[0]) + "|",
    ]
    lines += [f"| {' | '.join(map(_cell, row.values()))} |" for row in rows]
    table = "\n".join(lines) + "\n"
    write_json(directory / f"{name}.json", list(rows))
    write_text(directory / f"{name}.md", table)
    return table


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
