"""The memory of this process over time; Linux."""

from __future__ import annotations

import threading
import time
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 0.05


class MemorySampler(threading.Thread):
    """Reads the resident memory of this process until told to stop; Linux."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_SAMPLES):
            self.samples.append((time.perf_counter(), resident_bytes()))

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()
        self.join()

    def peak(self, start: float, stop: float) -> int:
        """The largest value between two moments of ``time.perf_counter``."""
        return max((num_bytes for moment, num_bytes in self.samples if start <= moment <= stop), default=0)


def resident_bytes() -> int:
    """The memory that this process has in RAM now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status holds no VmRSS")
