"""Work in a copy of this process, which may kill itself at an event of the interpreter."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any


def is_killed(action: Callable[[], object], is_time: Callable[[str, tuple[Any, ...]], bool]) -> bool:
    """Does ``action`` in a copy, killed (SIGKILL) before the first audit event for which ``is_time``; False: it ended.

    To kill is an event, too, for which it must not be time.

    Raises:
        AssertionError: It failed; what by, the copy has written to stderr.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if is_time(event, arguments):
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            action()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 the parent is told by the status
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0
