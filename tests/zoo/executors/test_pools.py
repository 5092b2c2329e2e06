"""Workers: results, errors, lost workers; processes in every run of the tests, Ray where it is installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.zoo.executors.executor_stand_ins import Doing
from zoo.errors import UserError
from zoo.executors.opening import open_pool
from zoo.executors.pool import Pool
from zoo.executors.settings import ExecutorSettings
from zoo.executors.worker import RemoteTracebackError


@pytest.fixture(scope="module", params=["processes", pytest.param("ray", marks=pytest.mark.launchers)])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool(ExecutorSettings(request.param, 2), Doing(tmp_path_factory.mktemp("work"))) as pool:
        yield pool
        (process,) = dict(pool.run(["process"])).values()
    assert request.param == "ray" or not Path(f"/proc/{process}").exists()  # closing ends it at once


def test_results_come_with_their_index_and_every_worker_is_used(pool: Pool) -> None:
    assert dict(pool.run(range(5))) == {n: 2 * n for n in range(5)}
    assert os.getpid() not in dict(pool.run(["process"] * 4)).values()
    assert dict(pool.run([])) == {}


def test_workers_compute_with_as_many_threads_as_this_process(pool: Pool) -> None:
    assert set(dict(pool.run(["threads"] * 2)).values()) == {torch.get_num_threads()}


def test_errors_of_the_user_are_results_and_others_are_raised_with_their_traceback(pool: Pool) -> None:
    found = dict(pool.run([1, "bad"]))
    assert found[0] == 2
    assert isinstance(found[1], UserError)
    assert str(found[1]) == "this is bad: type that"
    with pytest.raises(ZeroDivisionError, match="nobody expected it") as raised:
        list(pool.run(["broken", *range(9)]))
    assert isinstance(raised.value.__cause__, RemoteTracebackError)
    assert "executor_stand_ins.py" in str(raised.value.__cause__)
    assert dict(pool.run([3, 4])) == {0: 6, 1: 8}  # and nothing of what was given up


def test_what_workers_log_is_said_here_once(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list(pool.run(["warn", "warn", "warn"]))
    assert [record.message for record in caplog.records if "said once" in record.message] == ["said once"]


def test_the_task_of_a_lost_worker_runs_again(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    assert dict(pool.run([1, "die once", 2])) == {0: 2, 1: "die once", 2: 4}
    assert "die once: its worker was lost" in caplog.text


def test_a_task_that_loses_every_worker_is_given_up_by_name(pool: Pool) -> None:
    with pytest.raises(UserError, match=r"die lost 3 workers .* type a smaller executor.num_workers"):
        list(pool.run(["die"]))


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be sent to them .* type executor=serial"):
        open_pool(ExecutorSettings("processes", 2), lambda task: task)
