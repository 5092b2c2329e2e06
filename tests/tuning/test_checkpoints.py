from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.checkpoints import CheckpointFiles, Checkpoints
from tuning.fit import tune
from tuning.settings import HeadSettings, TuningSettings
from tuning.sharded_files import SHARDS
from zoo.errors import UserError

TUNING = TuningSettings(mode="freeze", loss="cross_entropy", num_epochs=1, head=HeadSettings(refit="never"))
IDENTITY = {"data": "sha256:1", "optimizer.learning_rate": "0.001"}


def run(run_dir: Path, *, identity=IDENTITY, **options):
    return tune(StandIn(), Blobs(), TUNING, run_dir=run_dir, identity=identity, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished")
    run(run_dir)
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "moved"))


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
@pytest.mark.parametrize("fault", ["bit", "cut", "missing part", "other file"])
def test_a_damaged_checkpoint_is_refused_by_name(name, fault, run_dir):
    path = run_dir / "checkpoints" / name
    content = bytearray(path.read_bytes())
    if fault == "bit":
        weight = torch.load(path, weights_only=True)["state_dict"]["network.adapter.0.weight"]
        at = bytes(content).index(weight.numpy().tobytes())
        content[at + 3] ^= 0x40
    path.write_bytes(content[: len(content) // 2] if fault == "cut" else content)
    if fault == "missing part":
        torch.save({"state_dict": {}}, path)
    if fault == "other file":
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=rf"{name}: .*type the command again without resume") as error:
        run(run_dir, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "optimizer.learning_rate": "1e-05"}, "optimizer.learning_rate 0.001 -> 1e-05; resume"),
        ({"data": "sha256:1"}, "optimizer.learning_rate 0.001 -> (not given)"),
        ({**IDENTITY, "networks.a": "sha256:" + 64 * "7"}, "networks.a (not given) -> sha256:7777777777777..."),
    ],
)
def test_a_checkpoint_of_another_identity_is_not_gone_on_with(identity, message, run_dir):
    with pytest.raises(UserError) as error:
        run(run_dir, identity=identity, resume=True)
    assert f"best.ckpt is of another training: {message}" in str(error.value)


@pytest.mark.parametrize("in_shards", [False, True])
def test_shards_and_whole_files_are_not_taken_for_each_other(in_shards, run_dir):
    path = run_dir / "checkpoints" / "last.ckpt"
    if not in_shards:
        torch.save({**torch.load(path, weights_only=True), SHARDS: "last.ckpt.shards-0"}, path)
    with pytest.raises(
        UserError, match="written whole, .*other than fsdp2" if in_shards else "shards, .*trainer=fsdp2"
    ):
        Checkpoints(path.parent, IDENTITY).resumable(in_shards=in_shards)


def test_a_new_run_looks_at_no_old_checkpoint(run_dir, finished):
    for path in (run_dir / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    expected = run(finished, resume=True)
    assert run(run_dir, identity={}).val_losses == expected.val_losses


def test_without_a_last_checkpoint_resume_starts_over(run_dir, finished):
    (run_dir / "checkpoints" / "last.ckpt").unlink()
    (run_dir / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
    assert run(run_dir, resume=True).val_losses == run(finished, resume=True).val_losses


def test_a_failed_write_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    files, path, save = CheckpointFiles(), tmp_path / "last.ckpt", torch.save

    def fill_the_disk(content, target):
        Path(target).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 168192 vs 168088\nmore")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(UserError, match=r"last\.ckpt .*part of it\); there is none before it: .*again$"):
        files.save_checkpoint({}, path)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(torch, "save", save)
    files.save_checkpoint({"huozi": {}, "state_dict": {"a": torch.ones(2)}}, path)
    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(UserError, match=r"\(no more than a part of it\); the one before it is whole: .* resume="):
        files.save_checkpoint({}, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(files.load_checkpoint(path)["state_dict"]["a"], torch.ones(2))
