from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.blueprint import (
    BLUEPRINT_FILE,
    WEIGHTS_FILE,
    BlockSpec,
    Bundle,
    HeadSpec,
    ReassemblyBlueprint,
    read_bundle,
    write_blueprint,
    write_bundle,
)
from zoo.errors import UserError

BLUEPRINT = ReassemblyBlueprint(
    (BlockSpec("resnet", (0, 4)),), (), HeadSpec(classes=("cat", "dog")), {"resnet": "sha256:" + "ab" * 32}
)
TENSORS = {
    "head.weight": torch.arange(6.0).view(2, 3).T,
    "head.bias": torch.tensor([float("nan"), -0.0]),
    "norm.num_batches_tracked": torch.tensor(3),
}


@pytest.fixture
def directory(tmp_path):
    write_bundle(tmp_path / "bundle", Bundle(BLUEPRINT, TENSORS, complete=False))
    return tmp_path / "bundle"


def refused(directory) -> str:
    with pytest.raises(UserError) as refusal:
        read_bundle(directory)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("complete", [False, True])
def test_bundle_survives_writing_and_reading(tmp_path, complete):
    write_bundle(tmp_path, Bundle(BLUEPRINT, TENSORS, complete))
    bundle = read_bundle(tmp_path)
    assert bundle.blueprint == BLUEPRINT
    assert bundle.complete == complete
    assert bundle.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert bundle.tensors[name].dtype == tensor.dtype
        assert bundle.tensors[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_bundle_is_two_files_and_replaces_an_older_one(directory):
    write_bundle(directory, Bundle(BLUEPRINT, {"head.bias": torch.ones(2)}, complete=True))
    assert sorted(path.name for path in directory.iterdir()) == [BLUEPRINT_FILE, WEIGHTS_FILE]
    assert list(read_bundle(directory).tensors) == ["head.bias"]


@pytest.mark.parametrize("name", [BLUEPRINT_FILE, WEIGHTS_FILE])
def test_missing_file_is_refused(directory, name):
    (directory / name).unlink()
    assert refused(directory) == f"{directory / name}: expected a file, but it does not exist"


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_weights_are_refused(directory, length):
    path = directory / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path}: damaged or truncated" in refused(directory)


def test_one_flipped_bit_is_refused(directory):
    path = directory / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"{path}: damaged: its tensors differ from the digest" in refused(directory)


def test_weights_of_another_origin_are_refused(directory):
    save_file(load_file(directory / WEIGHTS_FILE), directory / WEIGHTS_FILE)
    assert "format None is not supported; expected huozi-bundle/1" in refused(directory)


def test_weights_of_another_blueprint_are_refused(directory):
    write_blueprint(directory / BLUEPRINT_FILE, replace(BLUEPRINT, head=HeadSpec(classes=("dog", "cat"))))
    assert "belong to another blueprint" in refused(directory)


def test_comments_in_the_blueprint_are_welcome(directory):
    path = directory / BLUEPRINT_FILE
    path.write_text("# found on a Monday\n" + path.read_text())
    assert read_bundle(directory).blueprint == BLUEPRINT


def test_damaged_blueprint_is_refused(directory):
    path = directory / BLUEPRINT_FILE
    path.write_text(path.read_text().replace("classes", "clases"))
    assert "unknown field 'head.clases': did you mean 'classes'?" in refused(directory)
