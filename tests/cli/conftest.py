"""Commands as real subprocesses, in an empty directory each, with one cache of stage results for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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


def start(script: str, *overrides: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts ``python script overrides`` in ``cwd``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("HYDRA_FULL_ERROR", None)
    command = [sys.executable, str(PROJECT / script), *overrides]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(script: str, *overrides: str, cwd: Path) -> Finished:
    """Runs ``python script overrides`` in ``cwd`` to its end."""
    process = start(script, *overrides, cwd=cwd)
    stdout, stderr = process.communicate(timeout=600)
    return Finished(process.returncode, stdout, stderr)


def run_until_killed(*overrides: str, run_dir: Path) -> None:
    """Starts ``train.py`` into ``run_dir`` and kills it after its first checkpoint, before it has a result."""
    process = start("train.py", *overrides, f"output_dir={run_dir.name}", cwd=run_dir.parent)
    while not (run_dir / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (run_dir / "result.json").exists()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that makes all commands of the session share their stage results."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # that of all workers
    return f"cache.root={session / 'stage-results'}"


def read_result(directory: Path) -> dict:
    """The ``result.json`` of a job."""
    return json.loads((directory / "result.json").read_text())
