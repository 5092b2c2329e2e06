"""What is said of a process that trained along and is gone."""

from __future__ import annotations

import logging
import subprocess

import pytest
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch.distributed import DistBackendError

from launch import interruption
from launch.processes import losses_told
from zoo.errors import UserError

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5312. GLHF"


@pytest.mark.parametrize("error", [RuntimeError(GLOO), DistBackendError("remote process exited")], ids=["gloo", "nccl"])
def test_a_lost_process_is_told_in_one_line_with_how_to_go_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "_advice", "`python train.py resume=DIR` goes on")
    told = r"trained along ended.*; `python train\.py resume=DIR` goes on$"
    with pytest.raises(UserError, match=told) as caught, losses_told(is_shared=True):
        raise error
    assert "GLHF" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(("text", "is_shared"), [(GLOO, False), ("mat1 and mat2 shapes cannot be multiplied", True)])
def test_any_other_error_stays_what_it_is(text: str, is_shared: bool) -> None:
    error = RuntimeError(text)
    with pytest.raises(RuntimeError) as caught, losses_told(is_shared=is_shared):
        raise error
    assert caught.value is error


def test_the_line_before_lightning_ends_everything_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interruption, "_advice", "`python train.py resume=DIR` goes on")
    killed, sent = [subprocess.Popen(["sleep", "60"])], []
    killed[0].kill()
    killed[0].wait()
    monkeypatch.setattr("os.kill", lambda *signal: sent.append(signal))
    with caplog.at_level(logging.INFO), losses_told(is_shared=True):
        assert _ChildProcessObserver(main_pid=1, child_processes=killed)._run()
    assert sent
    assert caplog.messages == [
        "error: a process that trained along was ended by SIGKILL; `python train.py resume=DIR` goes on"
    ]
