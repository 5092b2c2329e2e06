"""What is opened, what it gives, and what is refused in one line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import deploy.opening
import zoo.loading
from cloning.bundle import pack
from deploy import Model, load
from deploy.complete import completed
from deploy.opening import locate
from tests.deploy.deploy_stand_ins import DIGITS, save
from zoo.blueprint import BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE, read_blueprint, write_blueprint, write_bundle
from zoo.errors import UserError
from zoo.storage.files import read_yaml


def logits(model: Model) -> torch.Tensor:
    spec = model.input
    x = torch.randn(3, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as told:
        action()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("name", ["", WEIGHTS_FILE])
def test_a_bundle_gives_the_logits_of_the_network_that_was_saved(assembled: Model, bundle: Path, name: str) -> None:
    opened = load(bundle / name)
    assert torch.equal(logits(opened), logits(assembled))
    assert opened.classes == DIGITS
    assert opened.input == assembled.input
    assert opened.describe().startswith("resnet_digits[0:")


def test_a_clone_is_opened_from_a_bundle_and_from_a_packed_file(clone: Model, tmp_path: Path) -> None:
    pack(clone.network, tmp_path / "graft.hz")
    for path in (save(clone.network, tmp_path / "bundle"), tmp_path / "graft.hz"):
        assert torch.equal(logits(load(path)), logits(clone))


def test_a_run_directory_is_opened_as_its_bundle(run_dir: Path) -> None:
    opened = load(run_dir)
    assert opened.origin.run_dir == run_dir
    assert torch.equal(logits(opened), logits(load(run_dir / "bundle")))
    assert load(run_dir / "bundle").origin.run_dir == run_dir


def test_a_recipe_is_described_and_predicts_nothing(bundle: Path, tmp_path: Path) -> None:
    write_blueprint(tmp_path / BLUEPRINT_FILE, read_blueprint(bundle / BLUEPRINT_FILE))
    opened = load(tmp_path)
    assert "recipe without learnt weights" in opened.describe()
    for action in (lambda: logits(opened), lambda: opened.predict(torch.zeros(1, 32, 32))):
        assert "is a recipe, without learnt weights: train it" in refusal(action)


def test_an_old_bundle_says_that_its_input_is_derived(
    assembled: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(assembled.network, tmp_path / "old", interface=False)
    with caplog.at_level(logging.INFO):
        opened = load(tmp_path / "old")
    assert opened.input == assembled.input
    assert "holds no input specification: that of its network resnet_digits is taken" in caplog.text


@pytest.mark.parametrize("kind", ["assembled", "clone"])
def test_a_complete_bundle_needs_no_zoo_and_no_checkpoint(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Model = request.getfixturevalue(kind)
    expected = logits(model)
    write_bundle(tmp_path / "complete", completed(load(save(model.network, tmp_path / "small"))))

    def refuse(*_: object) -> None:
        raise AssertionError("a checkpoint was read")

    monkeypatch.setattr(zoo.loading, "load_file", refuse)
    monkeypatch.setattr(deploy.opening, "ZOOS", tmp_path / "nowhere")
    opened = load(tmp_path / "complete")
    assert torch.equal(logits(opened), expected)
    assert "complete bundle" in opened.describe()


def edited(bundle: Path, tmp_path: Path, edit: Callable[[dict], None]) -> Path:
    """A copy with another interface that is as well signed as a stranger signs it."""
    from zoo.blueprint import read_bundle
    from zoo.blueprint.bundle import Bundle

    read = read_bundle(bundle)
    interface = read_yaml(bundle / INTERFACE_FILE)
    edit(interface)
    write_bundle(tmp_path / "edited", Bundle(read.blueprint, read.tensors, read.complete, interface))
    return tmp_path / "edited"


def test_a_bundle_of_a_stranger_calls_no_function_of_its_own(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\ndef network():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    def name_function(interface: dict) -> None:
        interface["networks"]["vit_digits"] = {
            **interface["networks"]["vit_digits"],
            "source": "evil:network",
        }

    told = refusal(lambda: load(edited(bundle, tmp_path, name_function)))
    assert "'vit_digits' is built by evil:network, a function that this file alone names" in told


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"model": "resnet18", "checkpoint_path": "/etc/passwd"}, "kwargs.checkpoint_path is not taken"),
        ({"model": "resnet18", "pretrained": True}, "kwargs.pretrained is not taken"),
        ({"model": "hf-hub:some/one"}, "no model 'hf-hub:some/one'"),
        ({"model": "resnet18", "num_classes": 10**9}, "kwargs.num_classes is 1000000000, too large"),
    ],
)
def test_a_bundle_of_a_stranger_has_no_file_read(bundle: Path, tmp_path: Path, kwargs: dict, told: str) -> None:
    def change(interface: dict) -> None:
        interface["networks"]["resnet_digits"]["kwargs"] = {"strides": {}, **kwargs}
        interface["networks"]["resnet_digits"]["source"] = "zoo.embedded.networks:small_image"

    path = edited(bundle, tmp_path, change)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(deploy.opening, "ZOOS", tmp_path / "nowhere")  # else the user's own entry takes its place
    try:
        assert told in refusal(lambda: load(path))
    finally:
        monkeypatch.undo()


def test_what_a_small_bundle_needs_is_listed_by_name_and_digest(bundle: Path, tmp_path: Path) -> None:
    def lose(interface: dict) -> None:
        for entry in interface["networks"].values():
            entry["source"], entry["model"] = "timm", "resnet18"
            entry["weights"] = {"file": str(tmp_path / "lost.safetensors")}
            del entry["kwargs"]

    told = refusal(lambda: load(edited(bundle, tmp_path, lose)))
    digests = read_blueprint(bundle / BLUEPRINT_FILE).networks
    for name, digest in digests.items():
        assert f"{name} ({digest}): weights file {tmp_path}/lost.safetensors does not exist" in told
    assert "python -m deploy complete" in told


def test_an_interface_that_was_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "changed")
    path = tmp_path / "changed" / INTERFACE_FILE
    path.write_text(path.read_text().replace("0.5", "0.4"))
    assert f"{path}: damaged, or not what the weights beside it were written with" in refusal(
        lambda: load(tmp_path / "changed")
    )


def test_names_of_other_classes_are_refused(bundle: Path, tmp_path: Path) -> None:
    told = refusal(lambda: load(edited(bundle, tmp_path, lambda plain: plain.update(classes=list("abcdefghij")))))
    assert "its classes are not those of the blueprint beside it" in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "does not exist: give a directory of train.py"),
        ("sweep", "holds 2 runs (0, 1): give one of them"),
        ("broken", "is a run that is not completed (interrupted)"),
        ("partial", "is a completed run without bundle/weights.safetensors and blueprint.yaml: put the files back"),
        ("empty", "holds no result (it holds nothing)"),
        ("model.onnx", "is an ONNX file, which onnxruntime opens"),
        ("last.ckpt", "is a checkpoint of training"),
        ("notes.txt", "is nothing that this project wrote"),
    ],
)
def test_what_is_no_result_is_told_in_one_line(tmp_path: Path, name: str, told: str) -> None:
    for folder in ("sweep/0", "sweep/1", "broken", "partial"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("seed: 0\n")
    for folder, status in {"broken": "interrupted", "partial": "completed"}.items():
        (tmp_path / folder / "result.json").write_text(json.dumps({"status": status}))
    (tmp_path / "empty").mkdir()
    for file in ("model.onnx", "last.ckpt", "notes.txt"):
        (tmp_path / file).write_bytes(b"something")
    assert told in refusal(lambda: locate(tmp_path / name))


def test_damaged_weights_a_missing_device_and_an_unknown_zoo_are_told(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "cut")
    weights = tmp_path / "cut" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged or truncated" in refusal(lambda: load(tmp_path / "cut"))
    assert "device 'abacus': torch finds none" in refusal(lambda: load(bundle, device="abacus"))
    assert "there is no zoo 'embeded': did you mean 'embedded'?" in refusal(lambda: load(bundle, zoo="embeded"))
    assert "has no network 'resnet_digits'" in refusal(lambda: load(bundle, zoo="timm_small"))


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"pretrained_cfg_overlay": {"file": "evil.pth"}}, "is not taken from a file of others"),
        ({"checkpoint_path": "evil.pth"}, "kwargs.checkpoint_path=evil.pth: weights are given apart"),
    ],
)
def test_the_configuration_of_a_strangers_run_has_no_file_read(
    bundle: Path, tmp_path: Path, kwargs: dict[str, object], told: str
) -> None:
    networks = read_blueprint(bundle / BLUEPRINT_FILE).networks
    entry = {"source": "timm", "model": "vit_tiny_patch16_224", "kwargs": kwargs}
    config = {"zoo": {"name": "evil", "networks": {name: {**entry, "input": EVIL_INPUT} for name in networks}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    write_blueprint(tmp_path / BLUEPRINT_FILE, read_blueprint(bundle / BLUEPRINT_FILE))
    assert told in refusal(lambda: load(tmp_path))


EVIL_INPUT = {"channels": 3, "height": 64, "width": 64, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
