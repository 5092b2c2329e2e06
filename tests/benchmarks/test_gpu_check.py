"""The checklist for a GPU, tried without one."""

from __future__ import annotations

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Finding, main

FEW = ["search as on the CPU", "training, bf16-mixed", "trainer.channels_last", "no step waits"]
"""The others call what tests of their own are for."""


def test_points_that_hold_are_told_with_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--only", *FEW]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[0] for line in lines[1:-1]] == ["[pass", "[pass", "[pass", "[  - "]
    assert "scores differ by 0.0e+00 at most" in lines[1]
    assert "validation accuracy" in lines[2]
    assert "needs a GPU" in lines[4]
    assert lines[-1] == "nothing failed"


def test_a_point_that_fails_or_breaks_is_named_and_the_others_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> Finding:
        raise RuntimeError("no kernel\nand more")

    checks = {"a": lambda _: Finding(False, "3 instead of 2"), "b": broken, "c": lambda _: Finding(True, "fine")}
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    assert main(["--device", "cpu", "--only", "a", "b", "c"]) == 1
    told = capsys.readouterr().out
    for line in ("[FAIL] a", "3 instead of 2", "[FAIL] b", "RuntimeError: no kernel\n", "[pass] c", "2 failed: a, b"):
        assert line in told
