from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ddp_driver
import pytest
import torch
from tuning_stand_ins import StandIn


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    root = Path(ddp_driver.__file__).parents[2]
    two = subprocess.Popen(
        [sys.executable, ddp_driver.__file__, str(folder / "two"), "2"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ddp_driver.run(folder / "one", 1)
    output, _ = two.communicate(timeout=240)
    assert two.returncode == 0, output
    return folder


@pytest.mark.parametrize("name", ddp_driver.CASES)
def test_two_processes_give_the_result_of_one(runs, name):
    one = torch.load(runs / "one" / name / "rank0.pt")
    ranks = [torch.load(runs / "two" / name / f"rank{rank}.pt") for rank in (0, 1)]
    frozen = StandIn(dropout=0.0).state_dict()
    for key, tensor in one["network"].items():
        assert torch.equal(ranks[0]["network"][key], ranks[1]["network"][key]), key
        torch.testing.assert_close(ranks[0]["network"][key], tensor, rtol=1e-3, atol=1e-4)
        if not key.startswith(("adapter.", "head.")):
            assert torch.equal(ranks[0]["network"][key], frozen[key]), key
    assert ranks[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)
    epochs = min(ddp_driver.CASES[name].num_epochs, 2)  # of four, where training stops early
    assert ranks[0]["epochs"] == ranks[1]["epochs"] == one["epochs"] == epochs


def test_files_are_written_once(runs):
    for loss in ("loo", "cross_entropy"):
        names = {path.name for path in (runs / "two" / loss / "checkpoints").iterdir()}
        assert names == {"best.ckpt", "last.ckpt"}
    kept = {path.name for path in (runs / "two" / "loop" / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "last.ckpt", "epoch-0001.ckpt", "epoch-0002.ckpt"}
