from __future__ import annotations

import time

import pytest

from zoo.storage.stages import StageTimer


def test_a_stage_that_is_entered_again_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.5, 20.0, 20.25, 30.0, 33.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    timed = StageTimer()
    for stage in ("features", "scores", "features"):
        with timed(stage):
            pass
    assert timed.seconds == {"features": 4.5, "scores": 0.25}
