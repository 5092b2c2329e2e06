"""The time that a partition may take."""

from __future__ import annotations

import time


class Clock:
    """Started when made.

    Args:
        seconds: Until it is over; None: never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def is_over(self) -> bool:
        """Whether the seconds have passed."""
        return self._end is not None and time.monotonic() >= self._end
