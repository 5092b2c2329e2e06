"""How far long work is and how long it will still take: a bar in a terminal, sparse lines in a log.

Whoever sets up no logging sees neither, so that the project can be used as a library; nor do the further processes of a
job, whose logging is raised to warnings.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

FIRST_LINE_SECONDS = 30.0
"""Work that is done by then says nothing in a log; each further line comes after twice as long, up to ten minutes."""

MAX_LINE_SECONDS = 600.0

Advance = Callable[..., None]


@contextmanager
def progress(what: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Gives a function to be called after each step, or with the number of steps that were done.

    Whatever ends the ``with``, an interruption too, takes the bar away and leaves the terminal as it was.

    Args:
        what: Is being done, such as ``scores of candidates``.
        total: Number of steps.
        clock: In seconds.
    """
    if not log.isEnabledFor(logging.INFO):
        yield lambda count=1: None
    elif in_terminal():
        with _bar(what, total) as advance:
            yield advance
    else:
        yield _Lines(what, total, clock).advance


def clear() -> None:
    """Takes away a bar that is still there, for those who tell an error while its traceback keeps generators open."""
    while _shown:
        _shown.pop().stop()


def in_terminal() -> bool:
    """Whether a person is looking: stderr is a terminal, and not that of a CI."""
    return sys.stderr.isatty() and "CI" not in os.environ


class StderrHandler(logging.StreamHandler):
    """Writes to what stderr is at the moment, so that lines appear above a bar and not inside it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Looked up anew each time."""
        return sys.stderr


def duration(seconds: float) -> str:
    """A time as one says it: 8 s, 3 min, 2 h 5 min."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """Progress as lines of the log, ever fewer of them."""

    def __init__(self, what: str, total: int, clock: Callable[[], float]) -> None:
        self.what, self.total, self.clock = what, total, clock
        self.done, self.started, self.wait = 0, clock(), FIRST_LINE_SECONDS
        self.next = self.started + self.wait

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = self.clock()
        if now >= self.next and self.done < self.total:
            left = (now - self.started) / self.done * (self.total - self.done)
            log.info("%s: %d of %d, about %s left", self.what, self.done, self.total, duration(left))
            self.wait = min(2 * self.wait, MAX_LINE_SECONDS)
            self.next = now + self.wait


_shown: list[Any] = []  # the one display of the terminal, while there is one


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    """A bar on stderr; work inside other work has its bar below."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    if not _shown:
        display = bars.Progress(*columns, console=Console(stderr=True), transient=True)
        with display:
            _shown.append(display)
            try:
                with _bar(what, total) as advance:
                    yield advance
            finally:
                _shown.clear()
        return
    (display,) = _shown
    task = display.add_task(what, total=total)
    try:
        yield lambda count=1: display.advance(task, count)
    finally:
        display.remove_task(task)
