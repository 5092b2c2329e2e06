from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, signal, sys
from launch import interruption
for number in interruption.SIGNALS:
    signal.signal(number, signal.SIG_DFL)  # a runner in the background has them ignored
interruption.watch()
interruption.advise("type this")
def end(): os.kill(os.getpid(), int(sys.argv[1]))
if sys.argv[2] == "loading":
    try: end()
    except BaseException: pass
try:
    with interruption.raised(): end()
except KeyboardInterrupt: pass
sys.exit(interruption.report())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["loading", "job"])
def test_a_signal_is_one_line_and_a_status_whenever_it_comes(number: signal.Signals, moment: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(int(number)), moment]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + number
    assert ended.stderr == f"interrupted by {number.name}: type this\n"


def test_further_processes_of_a_job_say_nothing() -> None:
    command = ["env", "LOCAL_RANK=1", sys.executable, "-c", SCRIPT, "15", "job"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (143, "")
