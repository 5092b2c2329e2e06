"""Commands as users type them, in an empty directory each, with one cache of stage results for all.

``run`` starts the entry script in this process, which has its libraries loaded; ``run_process`` starts a process, for
what only a process shows.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from filelock import FileLock

from launch.interruption import SIGNALS
from launch.sweep import BeginSweep
from tests.conftest import undrawn
from tests.killing import is_killed

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of an error; the test fails if stderr holds more or the command did not fail."""
        assert self.code != 0, self.stdout + self.stderr
        lines = self.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, self.stderr
        assert lines[-1] == errors[0], self.stderr
        assert "Traceback" not in self.stderr
        return errors[0]


def run_process(script: str, *overrides: str, cwd: Path) -> Finished:
    """Runs ``python script overrides`` in ``cwd`` to its end, as a process."""
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("HYDRA_FULL_ERROR", None)
    command = [sys.executable, str(PROJECT / script), *overrides]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return Finished(ended.returncode, ended.stdout, ended.stderr)


def run(script: str, *overrides: str, cwd: Path, draws: bool = False) -> Finished:
    """Runs ``python script overrides`` in ``cwd`` to its end, in this process; figures stay undrawn by default."""
    drawing = contextlib.nullcontext() if draws else undrawn()
    with drawing, _as_in_a_process(cwd, [str(PROJECT / script), *overrides]) as (stdout, stderr):
        try:
            runpy.run_path(str(PROJECT / script), run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int)
    return Finished(code, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _as_in_a_process(cwd: Path, words: list[str]) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Gives what is written to stdout and stderr; what a script does to its process is undone afterwards."""
    root, before = logging.getLogger(), Path.cwd()
    level, handlers = root.level, root.handlers[:]
    on_signal = [signal.getsignal(number) for number in SIGNALS]
    os.chdir(cwd)
    try:
        with (
            mock.patch.dict(os.environ, ENVIRONMENT),
            mock.patch.object(sys, "argv", words),
            mock.patch.object(BeginSweep, "begun", None),
            contextlib.redirect_stdout(io.StringIO()) as stdout,
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            os.environ.pop("HYDRA_FULL_ERROR", None)
            yield stdout, stderr
    finally:
        os.chdir(before)
        root.setLevel(level)
        root.handlers[:] = handlers
        for number, handler in zip(SIGNALS, on_signal, strict=True):
            signal.signal(number, handler)


def run_until_killed(*overrides: str, run_dir: Path) -> None:
    """Runs ``train.py`` into ``run_dir`` in a copy of this process, killed as its second checkpoint takes its place."""
    count = 0

    def is_time(event: str, arguments: tuple[Any, ...]) -> bool:
        nonlocal count
        is_last = event == "os.rename" and str(arguments[1]).endswith("last.ckpt")
        count += is_last
        return is_last and count == 2

    words = [*overrides, f"output_dir={run_dir.name}"]
    assert is_killed(lambda: run("train.py", *words, cwd=run_dir.parent), is_time)
    assert (run_dir / "checkpoints" / "last.ckpt").exists()
    assert not (run_dir / "result.json").exists()


@pytest.fixture(scope="session")
def once(session: Path) -> Callable[..., Path]:
    """Runs a command into the directory of this name, by whichever worker comes first, and gives the directory.

    The command has to tell where the file ``tells`` of that directory lies.
    """

    def ran(name: str, script: str, *overrides: str, tells: str) -> Path:
        directory = session / name
        with FileLock(session / f"{name}.lock"):
            if not (directory / "result.json").exists():
                finished = run(script, *overrides, f"output_dir={name}", cwd=session, draws=True)
                assert finished.code == 0, finished.stderr
                assert f"{name}/{tells}" in finished.stderr
        return directory

    return ran


def read_result(directory: Path) -> dict:
    """The ``result.json`` of a job."""
    return json.loads((directory / "result.json").read_text())
