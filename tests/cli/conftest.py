"""Commands as real subprocesses, in an empty directory each, with one cache of stage results for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


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


def run(script: str, *overrides: str, cwd: Path, env: dict[str, str] | None = None) -> Finished:
    """Runs ``python script overrides`` in ``cwd``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})}
    environment.pop("HYDRA_FULL_ERROR", None)
    command = [sys.executable, "-W", "error::UserWarning:conf", str(PROJECT / script), *overrides]
    process = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    return Finished(process.returncode, process.stdout, process.stderr)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that makes all commands of the session share their stage results."""
    return f"cache.root={tmp_path_factory.getbasetemp().parent / 'stage-results'}"


def read_result(directory: Path) -> dict:
    """The ``result.json`` of a job."""
    return json.loads((directory / "result.json").read_text())
