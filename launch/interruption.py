"""Ctrl-C, SIGTERM and SIGHUP: one line that says how to go on, and the exit status 128 + number of the signal.

While programs and settings are loaded there is nothing to close: the process ends at once. While a job runs the signal
is raised in the main thread, through whatever runs, so that the job closes its files; a second Ctrl-C ends at once.
Whoever swallows the exception on the way (Lightning turns it into an exit of its own) does not matter: ``received``
remembers the signal, and the exit status is taken from there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = "run the same command again"

_received: signal.Signals | None = None
_advice = AGAIN
_is_raised = False


class Interrupted(KeyboardInterrupt):
    """A signal asked the job to end; a ``KeyboardInterrupt``, on which Lightning ends the processes it has started."""


def watch() -> None:
    """Takes over the signals; one that is ignored (``nohup``, a shell's background job) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def raised() -> Iterator[None]:
    """Within, a signal is raised as ``Interrupted`` instead of ending the process at once."""
    global _is_raised
    _is_raised = True
    try:
        yield
    finally:
        _is_raised = False


def advise(advice: str) -> None:
    """Says what an interruption from here on is answered with: how to go on."""
    global _advice
    _advice = advice


def advice() -> str:
    """How to go on from here."""
    return _advice


def received() -> signal.Signals | None:
    """The first signal that came, if any."""
    return _received


def report() -> int:
    """Prints the one line on stderr and returns the exit status. Only the main process of several says it."""
    assert _received is not None
    if _is_main():
        sys.stderr.flush()
        os.write(2, f"interrupted by {_received.name}: {_advice}\n".encode())  # print is not for signal handlers
    return 128 + _received


def _is_main() -> bool:
    """Whether this is the first of the processes that train together: the others have nothing to close."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _handle(number: int, _: FrameType | None) -> None:
    global _received
    is_first, _received = _received is None, _received or signal.Signals(number)
    if is_first and _is_raised and _is_main():
        raise Interrupted(_received.name)
    if is_first or number == signal.SIGINT:
        os._exit(report())
