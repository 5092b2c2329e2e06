"""Shared by all tests. Torch is pinned to one thread: parallel workers share the two cores of the smallest machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of all workers."""
    directory = tmp_path_factory.getbasetemp()
    return directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory


@pytest.fixture(scope="session")
def cache(session: Path) -> str:
    """The override that makes all commands of the session share their stage results."""
    return f"cache.root={session / 'stage-results'}"


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are composed but not drawn, which takes seconds a job; some commands and the tests of figures draw."""
    from matplotlib.figure import Figure
    from PIL import Image

    with mock.patch.object(Figure, "savefig", lambda _, path, **__: Image.new("L", (1, 1)).save(path, "png")):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells what the tests of ``tests/faults`` recorded: how many faults of which kind were injected."""
    recorded = [value for report in terminalreporter.getreports("passed") for value in report.user_properties]
    for line in sorted(text for name, text in recorded if name == "faults"):
        terminalreporter.write_line(f"injected faults: {line}")
