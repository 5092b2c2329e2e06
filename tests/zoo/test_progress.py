"""Progress: sparse lines in a log, a bar in a terminal that is gone whatever ends the work."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.progress import duration, progress

PROJECT = Path(__file__).resolve().parents[2]
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
WORK = """
import logging, os, signal, sys, time
from zoo.progress import StderrHandler, clear, progress

logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[StderrHandler()])

def generate():
    with progress("inner work", 3) as advance:
        for step in range(3):
            yield step
            advance()

try:
    with progress("outer work", 2) as advance:
        for step in generate():
            logging.info("a line above the bar")
            time.sleep(0.15)
            if sys.argv[1] == "error":
                raise ValueError("broken")
            if sys.argv[1] == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
        advance()
except (ValueError, KeyboardInterrupt) as error:
    kept = error
clear()
print("after", file=sys.stderr)
"""


def test_a_log_gets_ever_fewer_lines_with_an_estimate(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with caplog.at_level(logging.INFO), progress("scores", 100, clock=lambda: now) as advance:
        for _ in range(100):
            now += 10.0
            advance()
    assert caplog.messages == [
        "scores: 3 of 100, about 16 min left",
        "scores: 9 of 100, about 15 min left",
        "scores: 21 of 100, about 13 min left",
        "scores: 45 of 100, about 9 min left",
        "scores: 93 of 100, about 70 s left",
    ]


def test_short_work_and_work_without_logging_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress("scores", 3) as advance:
        advance(3)
    with caplog.at_level(logging.WARNING), progress("scores", 2, clock=lambda: 1 / 0) as advance:
        advance()
    assert caplog.messages == []


@pytest.mark.parametrize(("seconds", "told"), [(8.4, "8 s"), (150, "2 min"), (7500, "2 h 5 min")])
def test_times_are_told_as_one_says_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize("ending", ["done", "error", "interrupt"])
def test_a_terminal_is_left_as_it_was(ending: str) -> None:
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, ending],
        stderr=follower,
        env={**environment, "PYTHONPATH": str(PROJECT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(leader)
    assert process.wait() == 0
    text = output.decode()
    assert "outer work" in text
    assert "inner work" in text
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    last = text[text.index(SHOW_CURSOR) :]
    assert "work" not in last
    assert last.endswith("after\r\n")
    assert "a line above the bar\r\n" in text
