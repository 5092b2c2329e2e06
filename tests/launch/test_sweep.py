"""Sweeps under Hydra's launchers; the jobs are stand-ins, the processes are real."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from launch.__main__ import main
from launch.schema import Config
from launch.sweep import check_jobs, run_job
from launch.sweep_table import collect, exit_status, print_table, row_path
from zoo.errors import UserError
from zoo.storage.files import read_json, write_json

DRIVER = Path(__file__).with_name("sweep_driver.py")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parents[2]), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, str(DRIVER), "-m", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_a_kill_leaves_is_collected_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run("seed=0,1,2,3", cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL
    (directory,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert main(["sweep", str(directory)]) == 1
    rows = table(directory)
    assert [row["status"] for row in rows] == ["completed", "failed", "killed", "not begun"]
    assert rows[1]["error"].startswith("RuntimeError: power; cut")
    printed = capsys.readouterr().out
    assert "job 2 killed (seed=2)" in printed
    assert "job 3 not begun (seed=3)" in printed


LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray",),
}


@pytest.mark.launchers
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_loses_no_row(launcher: str, tmp_path: Path) -> None:
    ended = run("seed=0,1", *LAUNCHERS[launcher], "output_dir=out", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows] == ["completed", "failed"]
    assert "power; cut" in ended.stdout
    assert ended.stdout.count("sweep.csv") == 1


@pytest.mark.launchers
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_whose_process_is_killed_ends_with_an_error_and_names_the_job(launcher: str, tmp_path: Path) -> None:
    ended = run("seed=2,3", *LAUNCHERS[launcher], "output_dir=out", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert {row["status"] for row in table(tmp_path / "out")} <= {"killed", "not begun"}
    assert "job 0 killed (seed=2)" in ended.stdout


@pytest.mark.launchers
def test_the_optuna_sweeper_optimises_value(tmp_path: Path) -> None:
    sweeper = ("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3")
    ended = run(*sweeper, "optimizer.learning_rate=interval(0.001,0.01)", "output_dir=out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    rows = table(tmp_path / "out")
    best = max(rows, key=lambda row: float(row["value"]))
    rate = best["overrides"].partition("learning_rate=")[2].split()[0]
    assert rate in (tmp_path / "out" / "optimization_results.yaml").read_text()
    assert [row["status"] for row in rows] == ["completed"] * 3


def test_a_sweep_is_not_begun_by_every_process_of_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(DRIVER), "-m", "seed=0,1"]
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "each would begin the whole sweep: leave torchrun out, and type trainer.devices=N" in done.stderr
    assert not list(tmp_path.rglob("sweep.json"))


def test_what_no_job_could_run_with_is_told_before_the_first(composer: None) -> None:
    words = ["optimizer.learning_rate=0.1", "optimizer.learning_rate=-1", "device=gpu", "optimizer.learning_rate=-1"]
    with pytest.raises(UserError) as caught:
        check_jobs("train", [[word] for word in words])
    line = str(caught.value)
    assert line.startswith("3 of 4 jobs cannot run, and none was begun: job 1, 3: optimizer.learning_rate=-1")
    assert "; job 2: device=gpu" in line
    check_jobs("train", [[words[0]]])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("the disk is away")], ids=["interrupted", "failed"])
@pytest.mark.parametrize("value", [0.5, 0.7], ids=["stands", "another"])
def test_a_completed_row_whose_result_stands_outlives_a_recheck_that_does_not_end(
    error: BaseException,
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = SimpleNamespace(num=0)
    hydra = SimpleNamespace(sweep=SimpleNamespace(dir=tmp_path), job=job, overrides=SimpleNamespace(task=["seed=0"]))
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    row = {"job": 0, "overrides": ["seed=0"], "status": "completed", "metrics": {"value": 0.5}, "seconds": 9.0}
    row["directory"] = str(tmp_path / "run")
    write_json(tmp_path / "sweep.json", {"jobs": [["seed=0"]]})
    write_json(row_path(tmp_path, 0), row)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/result.json", {"status": "completed", "metrics": {"value": value}})

    def recheck() -> None:
        raise error

    with contextlib.suppress(KeyboardInterrupt):
        run_job(lambda config: {}, recheck, lambda config: tmp_path / "run", str)
    is_failure = isinstance(error, UserError)
    assert ("job 0: the disk is away" in caplog.text) == is_failure
    told = "completed" if value == 0.5 else "failed" if is_failure else "interrupted"
    left = read_json(row_path(tmp_path, 0))
    assert left.pop("recheck_error", None) == ("the disk is away" if is_failure and value == 0.5 else None)
    assert (left == row) == (value == 0.5)
    assert [row["status"] for row in table(tmp_path)] == [told]
    rows = collect(tmp_path)
    assert exit_status(rows) == (is_failure or value != 0.5)
    print_table(rows, tmp_path)
    assert ("its result stands; this time: the disk is away" in capsys.readouterr().out) == (
        told == "completed" and is_failure
    )

    run_job(lambda config: {"value": 0.5}, lambda: Config(), lambda config: tmp_path / "run", str)
    assert exit_status(collect(tmp_path)) == 0
