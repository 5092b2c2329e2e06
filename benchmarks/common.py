"""What several benchmarks need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from launch.errors import CONF
from zoo.registry import Zoo, read_zoo

T = TypeVar("T")


def embedded_zoo() -> Zoo:
    """The zoo that is part of the project."""
    return read_zoo(CONF / "zoo" / "embedded.yaml")


def timed(function: Callable[..., T], *arguments, **options) -> tuple[float, T]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result
