"""`weights.convert` and `python -m zoo convert`: foreign files by the user's own functions, kept as safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.zoo.checkpoint_stand_ins import State, load, refusal, same
from zoo.__main__ import main
from zoo.converting import convert
from zoo.digests import digest, file_sha256
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.interface import require_known_builder
from zoo.registry import read_zoo
from zoo.storage.files import read_safetensors
from zoo.weights import Weights

CONVERTERS = """
import sys
import numpy as np
from zoo.errors import UserError

def arrays(path):
    with open(path.with_name("calls"), "a") as calls:
        calls.write("x")
    return dict(np.load(path))

def fails(path): raise KeyError("encoder")
def exits(path): sys.exit("no licence")
def refuses(path): raise UserError(f"{path.name} is of version 7")
def none(path): return None
def empty(path): return {}
def text(path): return {"a": "b"}
def objects(path): return {"a": np.array([None])}
def numbered(path): return {1: np.zeros(2)}
"""


@pytest.fixture
def npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: State) -> Path:
    """The checkpoint as another framework may write it, and functions that read it, on the path."""
    (tmp_path / "own_converters.py").write_text(CONVERTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.savez(tmp_path / "weights.npz", **{key: tensor.numpy() for key, tensor in trained.items()})
    return tmp_path / "weights.npz"


def test_a_file_is_converted_once_and_a_damaged_copy_anew(npz: Path, trained: State):
    calls = npz.with_name("calls")
    for _ in range(2):
        assert same(load(npz, convert="own_converters:arrays"), trained)
        assert calls.read_text() == "x"
    (kept,) = npz.parent.glob("cache/huozi/converted/*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert same(load(npz, convert="own_converters:arrays"), trained)
    assert calls.read_text() == "xx"


def test_what_goes_wrong_in_the_process_is_told_here(npz: Path):
    assert refusal(npz, convert="own_converters:refuses") == "net: weights.npz is of version 7"


def test_the_command_writes_digest_and_provenance(npz: Path, trained: State, capsys: pytest.CaptureFixture[str]):
    output = npz.with_name("own.safetensors")
    assert main(["convert", str(npz), str(output), "--with", "own_converters:arrays"]) == 0
    state, told = read_safetensors(output)
    assert same(state, trained)
    assert told["digest"] == digest(trained)
    assert (told["source"], told["source_sha256"]) == ("weights.npz", file_sha256(npz))
    assert told["convert"] == "own_converters:arrays"
    printed = capsys.readouterr().out
    assert told["digest"] in printed
    assert f"sha256: {file_sha256(output)}" in printed


def test_a_checkpoint_needs_no_function(file: Path, trained: State, tmp_path: Path):
    torch.save({"epoch": 1, "state_dict": trained}, file)
    assert main(["convert", str(file), str(tmp_path / "own.safetensors")]) == 0
    assert same(read_safetensors(tmp_path / "own.safetensors")[0], trained)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("own_converters:missing", "own_converters has no function 'missing'"),
        ("no_such_module:read", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("own_converters", "give module:function"),
        ("own_converters:fails", "fails at .*weights.npz: KeyError: 'encoder'"),
        ("own_converters:exits", "fails at .*weights.npz: SystemExit: no licence"),
        ("own_converters:none", "returned NoneType, expected a mapping"),
        ("own_converters:empty", "returned nothing in it, expected a mapping"),
        ("own_converters:text", r"returned str to str \('a'\), expected text to tensors"),
        ("own_converters:objects", r"returned str to ndarray \('a'\), expected"),
        ("own_converters:numbered", r"returned int to ndarray \(1\), expected"),
    ],
)
def test_what_is_no_converter_is_told_in_one_line(npz: Path, function: str, told: str):
    with pytest.raises(UserError, match=told) as found:
        convert(npz, function)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.npz", "x.safetensors"], "none.npz does not exist"),
        (["weights/none", "x.safetensors"], "error: there is no file weights/none, and no network 'weights/none'"),
        (["weights.npz", "x.pth", "--with", "own_converters:arrays"], "x.pth is written as safetensors"),
        (["resnet_digits", "."], ". is written as safetensors"),
        (["no_such_network", "x.safetensors"], "no network 'no_such_network'"),
        (["cnn/resnet50", "x.safetensors"], "cnn/resnet50 has no file of weights"),
    ],
)
def test_the_command_refuses_in_one_line(
    npz: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(npz.parent)
    assert main(["convert", *arguments]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"convert": "module"}, "expected module:function"),
        ({"convert": "os.system:../x"}, "expected module:function"),
        ({"convert": "a:b", "key": "model"}, "leave `key` out"),
        ({"distribution": "a==1"}, "expected NAME==VERSION"),
        ({"distribution": "a; rm", "package": "a"}, "expected NAME==VERSION"),
        ({"distribution": "-e==.", "package": "a"}, "expected NAME==VERSION"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, str], told: str):
    with pytest.raises(UserError, match=told):
        Weights(file="x", **fields)


def test_a_file_of_others_names_no_converter_but_ours():
    entry: ZooEntry = read_zoo("real").entry("squeezenet1_1")
    require_known_builder(entry, "bundle")
    plain = {"name": "x", "networks": {"a": {"source": "timm", "model": "resnet18", "weights": {"file": "x"}}}}
    plain["networks"]["a"]["weights"]["convert"] = "evil:read"  # type: ignore[index]
    with pytest.raises(UserError, match="converted by evil:read, a function that this file alone names"):
        require_known_builder(read_zoo(plain).entry("a"), "bundle")


def keys(state: dict[str, Tensor]) -> list[str]:
    return list(state)
