"""Shared by all tests. Torch is pinned to one thread: parallel workers share the two cores of the smallest machine."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells what the tests of ``tests/faults`` recorded: how many faults of which kind were injected."""
    recorded = [value for report in terminalreporter.getreports("passed") for value in report.user_properties]
    for line in sorted(text for name, text in recorded if name == "faults"):
        terminalreporter.write_line(f"injected faults: {line}")
