"""How long the stages of a computation take."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class StageTimer:
    """Wall time of named stages; a stage that is entered again adds up.

    Attributes:
        seconds: By stage, rounded to hundredths.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what happens inside the ``with``."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - started, 2)
        log.debug("%s: %.2f s", stage, self.seconds[stage])
