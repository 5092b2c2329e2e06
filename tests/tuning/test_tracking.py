"""What Weights & Biases holds of a run, read back from the file that an offline run leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuning.tracking import tracking
from zoo.errors import UserError

OPTIONS = {"project": "p", "job_type": "train", "group": None, "config": {"seed": 0}}
_BLOCK, _HEADER = 32768, 7


def records(run_dir: Path) -> list[Any]:
    """Of the one offline run below a directory: the format of LevelDB's log, whose payloads are W&B's records."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service writes the end of the file when it goes
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    found = []
    for payload in payloads(path.read_bytes()):
        found.append(Record())
        found[-1].ParseFromString(payload)
    return found


def payloads(content: bytes) -> Iterator[bytes]:
    position, held = _HEADER, b""
    while position < len(content):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        held += content[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield held
            held = b""


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and a server where nobody listens."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")


def test_a_server_that_is_not_reached_loses_nothing(
    unreachable: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "blueprint.yaml"
    file.write_text("blocks: []\n")
    with caplog.at_level(logging.WARNING), tracking("wandb", tmp_path, **OPTIONS) as tracker:
        tracker.artifact("features-net", "sha256:" + "a" * 64, [], kind="features", inputs={"weights-net": "b" * 64})
        tracker.artifact("blueprint", "c" * 64, [file], inputs={"features-net": "a" * 64}, composition="net[0:3]")
        tracker.rows("class_accuracies", ["class", "accuracy"], [["cat", 0.5], ["dog", None]])
        tracker.summary({"macs": 12, "composition": "net[0:3]"})
    assert "W&B is not reached" in caplog.text
    assert f"wandb sync {tmp_path}" in caplog.text

    found = records(tmp_path)
    artifacts = {record.artifact.name: record.artifact for record in found if record.HasField("artifact")}
    assert artifacts.keys() >= {"features-net-" + "a" * 12, "blueprint-" + "c" * 12}
    blueprint = artifacts["blueprint-" + "c" * 12]
    assert (blueprint.type, artifacts["features-net-" + "a" * 12].type) == ("blueprint", "features")
    assert json.loads(blueprint.metadata)["inputs"] == ["features-net-" + "a" * 12]
    assert json.loads(artifacts["features-net-" + "a" * 12].metadata)["inputs"] == ["weights-net-" + "b" * 12]
    assert [entry.path for entry in blueprint.manifest.contents] == ["blueprint.yaml"]
    summary = {item.key: item.value_json for record in found for item in record.summary.update}
    assert summary["macs"] == "12"
    assert {item.key for record in found for item in record.history.item} | {
        item.nested_key[0] for record in found for item in record.history.item if item.nested_key
    } >= {"class_accuracies"}
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]


def test_what_wandb_refuses_is_one_line(tmp_path: Path) -> None:
    refused = tracking("wandb_offline", tmp_path, **{**OPTIONS, "project": "a/b"})
    with pytest.raises(UserError, match="logger=wandb_offline: W&B refuses this run: ") as error, refused:
        pass
    assert "\n" not in str(error.value)
