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
        [sys.executable, ddp_driver.__file__, str(folder), "2", "ddp", "fsdp2"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ddp_driver.run(folder / "one", 1, "auto")
    output, _ = two.communicate(timeout=480)
    assert two.returncode == 0, output
    return folder


CASES = [("ddp", name) for name in ddp_driver.CASES] + [("fsdp2", name) for name in ddp_driver.IN_SHARDS]


@pytest.mark.parametrize(("strategy", "name"), CASES)
def test_two_processes_give_the_result_of_one(runs, strategy, name):
    expected = {"adaptive": "ddp/adaptive" if strategy == "fsdp2" else None, "interrupted": "one/loop"}
    expected = expected.get(name, f"one/{name}")
    ranks = [torch.load(runs / strategy / name / f"rank{rank}.pt") for rank in (0, 1)]
    one = torch.load(runs / expected / "rank0.pt") if expected else ranks[1]  # statistics are not those of one process
    frozen = StandIn(dropout=0.0).state_dict()
    for key, tensor in one["network"].items():
        assert torch.equal(ranks[0]["network"][key], ranks[1]["network"][key]), key
        torch.testing.assert_close(ranks[0]["network"][key], tensor, rtol=1e-3, atol=1e-4)
        if name not in ("tied", "adaptive") and not key.startswith(("adapter.", "head.")):
            assert torch.equal(ranks[0]["network"][key], frozen[key]), key
    assert ranks[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)
    tuning = ddp_driver.CASES.get(name, ddp_driver.CASES["loop"])
    assert ranks[0]["epochs"] == ranks[1]["epochs"] == one["epochs"] == min(tuning.num_epochs, 2)  # stops early


def test_a_run_in_shards_that_breaks_off_goes_on_to_the_same_bits(runs):
    whole, resumed = (torch.load(runs / "fsdp2" / name / "rank0.pt") for name in ("loop", "interrupted"))
    assert resumed["losses"] == whole["losses"]
    assert all(torch.equal(tensor, whole["network"][key]) for key, tensor in resumed["network"].items())


def test_files_are_written_once(runs):
    kept = {"best.ckpt", "last.ckpt"}
    for loss in ("loo", "cross_entropy"):
        assert {path.name for path in (runs / "ddp" / loss / "checkpoints").iterdir()} == kept
    assert {path.name for path in (runs / "ddp" / "loop" / "checkpoints").iterdir()} == kept | EPOCHS
    for name in ("loop", "interrupted"):  # each with one folder of its tensors
        names = sorted(path.name.partition(".shards-")[0] for path in (runs / "fsdp2" / name / "checkpoints").iterdir())
        assert names == sorted(2 * [*kept, *EPOCHS])


EPOCHS = {"epoch-0001.ckpt", "epoch-0002.ckpt"}
