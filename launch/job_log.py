"""The log of a job, copied to a file in its directory."""

from __future__ import annotations

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path


class _LogFile(logging.FileHandler):
    """A log file that stops no job and hides no other fault: where it cannot be written, that is told once."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._tell(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._is_told:
            self._is_told = True
            print(f"{self.baseFilename} ends here: {error.strerror}", file=sys.stderr)


class JobLog:
    """Copies the log to a file; keeps it until it is known which.

    Args:
        logger: Whose debug messages, tracebacks among them, are copied, too.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __enter__(self) -> JobLog:
        self._kept = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._file: _LogFile | None = None
        self._logger.setLevel(logging.DEBUG)
        logging.getLogger().addHandler(self._kept)
        return self

    def open(self, path: Path, *, append: bool) -> None:
        """Writes what was kept, and from now on everything."""
        self._file = _LogFile(path, mode="a" if append else "w")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._kept.setTarget(self._file)
        logging.getLogger().removeHandler(self._kept)
        self._kept.close()
        logging.getLogger().addHandler(self._file)

    def __exit__(self, *_: object) -> None:
        for handler in (self._kept, self._file):
            if handler is not None:
                logging.getLogger().removeHandler(handler)
                handler.close()
