"""What is collected of a sweep: rows of jobs that ended, were killed, failed, or had not begun."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from launch.__main__ import main
from launch.sweep_table import ROW_LOCK, clear_rows, collect, differing, exit_status, print_table, row_path
from zoo.errors import UserError
from zoo.storage.files import write_json, write_text

RATES = [f"optimizer.learning_rate={rate}" for rate in (0.1, 0.01)]
JOBS = [["tuning=full", rate, f"seed={seed}"] for rate in RATES for seed in (0, 1, 2)]


def write_row(sweep: Path, number: int, status: str = "completed", **rest: Any) -> None:
    write_json(row_path(sweep, number), {"job": number, "overrides": JOBS[number], "status": status, **rest})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three jobs of six have ended well, one has failed, the process of one is gone, one has not begun."""
    write_json(tmp_path / "sweep.json", {"name": "train-1", "command": "train", "overrides": [], "jobs": JOBS})
    for number, accuracy in enumerate((0.5, 0.7, 0.9)):
        metrics = {"value": accuracy, "val_accuracy": accuracy, "test_accuracy": accuracy - 0.1}
        rest = {"directory": f"run{number}", "composition": "a[0:2] b[2:4]", "num_parameters": 1234567, "macs": 10}
        write_row(tmp_path, number, metrics=metrics, seconds=1.5, **rest)
    write_row(tmp_path, 3, "failed", error="no [such] file", seconds=0.1)
    write_row(tmp_path, 4, "running", machine="node7", process=99)
    return tmp_path


def test_the_table_names_every_job_and_what_became_of_it(sweep: Path) -> None:
    rows = collect(sweep)
    assert [row["status"] for row in rows] == ["completed"] * 3 + ["failed", "killed", "not begun"]
    assert "99 on node7" in rows[4]["error"]
    assert exit_status(rows) == 1
    with (sweep / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["job"] for row in table] == list("012345")
    figures = {"directory": "run1", "composition": "a[0:2] b[2:4]", "num_parameters": "1234567", "macs": "10"}
    assert table[1].items() >= {**figures, "val_accuracy": "0.7", "test_accuracy": "0.6"}.items()
    assert table[5]["overrides"] == " ".join(JOBS[5])


def test_a_job_runs_while_its_lock_is_held(sweep: Path) -> None:
    with FileLock(sweep / ROW_LOCK.format(4)):
        assert collect(sweep)[4]["status"] == "running"
    assert collect(sweep)[4]["status"] == "killed"


def test_eighty_columns_tell_the_jobs_apart_and_the_means_over_seeds(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(collect(sweep), sweep, width=80)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for told in ("learning_rate=0.1", "seed=2", "not begun", "1,234,567", "0.7 ± 0.2", "0.6 ± 0.2", "0 of 3"):
        assert told in printed
    assert "tuning=full" not in printed  # of all jobs
    assert "job 3 failed (learning_rate=0.01 seed=0): no [such] file" in printed
    assert "skip_completed=true" in printed


def test_in_a_file_no_line_is_broken(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(collect(sweep), sweep)
    (title, *_) = capsys.readouterr().out.splitlines()
    assert title.strip().endswith(f"3 completed: {sweep / 'sweep.csv'}")


def test_a_key_is_shortened_only_where_it_stays_the_only_one_of_its_name() -> None:
    jobs = [{"overrides": ["schedule.name=a", "optimizer.name=a", "seed=0"]}]
    jobs += [{"overrides": ["schedule.name=b", "optimizer.name=b", "seed=0"]}]
    assert differing(jobs) == ["schedule.name=a\noptimizer.name=a", "schedule.name=b\noptimizer.name=b"]
    assert differing([{"overrides": ["seed=0"]}, {"overrides": []}]) == ["seed=0", ""]


def test_a_damaged_row_is_a_job_that_failed(sweep: Path) -> None:
    write_text(row_path(sweep, 2), "{")
    row = collect(sweep)[2]
    assert (row["status"], row["job"]) == ("failed", 2)
    assert "2.json is damaged" in row["error"]


def test_a_new_sweep_in_the_same_directory_begins_without_rows(sweep: Path) -> None:
    (sweep / "0").mkdir()
    clear_rows(sweep)
    assert {row["status"] for row in collect(sweep)} == {"not begun"}
    assert (sweep / "0").is_dir()


def test_a_sweep_that_is_finished_keeps_the_rows_of_the_same_jobs_that_were_completed(sweep: Path) -> None:
    before = [row_path(sweep, number).read_text() for number in (0, 1)]
    clear_rows(sweep, but=[*JOBS[:2], ["seed=7"], *JOBS[3:]])
    assert [row_path(sweep, number).read_text() for number in (0, 1)] == before
    assert [row["status"] for row in collect(sweep)] == ["completed"] * 2 + ["not begun"] * 4


def test_the_command_ends_with_the_status_of_the_jobs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(sweep / "nowhere")]) == 2
    assert "sweep.json" in capsys.readouterr().err
    with pytest.raises(UserError):
        collect(sweep / "nowhere")
    write_json(sweep / "sweep.json", {"jobs": JOBS[:3]})
    for number in (3, 4):
        row_path(sweep, number).unlink()
    assert main(["sweep", str(sweep)]) == 0
