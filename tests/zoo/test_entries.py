from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules import MNIST5k
from reassembly.network import assemble, to_bundle
from zoo.blueprint import BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.digests import digest
from zoo.embedded.__main__ import halved, whole_network
from zoo.entries import InputSpec, ZooEntry, load_chain, load_network
from zoo.errors import UserError
from zoo.registry import ZOO_FOLDER, find_entry, read_zoo
from zoo.weights import PROJECT_ROOT, Weights

EMBEDDED = read_zoo(ZOO_FOLDER / "embedded.yaml")
GREY = InputSpec(1, 16, 16, (0.5,), (0.5,))
ONE_PIXEL = {"channels": 1, "height": 1, "width": 1, "mean": [0.5], "std": [0.5]}
FACTORIES = """
from torch import nn

def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 14 * 14, 2))

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def trained(factories: None) -> dict[str, torch.Tensor]:
    return load_network(replace(entry(), name="trained elsewhere")).state_dict()


def entry(file: Path | None = None, **weights: Any) -> ZooEntry:
    given = Weights(file=str(file), **weights) if file else None
    return ZooEntry("small", "my_factories:network", GREY, weights=given)


def timm_entry(model: str, **fields: Any) -> ZooEntry:
    return ZooEntry(model, "timm", InputSpec(3, 64, 64, (0.5,) * 3, (0.5,) * 3), model=model, **fields)


def zoo_of(network: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "mine", "networks": {"net": network}, **fields}


def same(network: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return digest(network) == digest(state)


# The embedded zoo.


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_network_reaches_its_stated_accuracy_on_images_it_has_not_seen(name: str):
    stated = EMBEDDED[name]
    data = MNIST5k(task=name.split("_")[1], num_validation=400)  # the split of its experiment
    images, labels = data.images("test", stated.input)
    network = load_network(stated)
    with torch.no_grad():
        predictions = torch.cat([network(batch).argmax(1) for batch in images.split(400)])
    assert data.class_names == stated.classes
    accuracy = 100 * (predictions == labels).double().mean().item()
    assert stated.accuracy is not None
    assert accuracy == pytest.approx(stated.accuracy.given, abs=0.15)
    assert stated.accuracy.lowest <= stated.accuracy.given <= stated.accuracy.highest


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    return {name: load_chain(stated) for name, stated in EMBEDDED.items()}


def test_embedded_chains_are_long_enough_for_six_blocks_and_their_grids_differ(chains: dict[str, Chain]):
    for chain in chains.values():
        chain.require_length(6)
    assert {(32, 32), (16, 16), (8, 8), (4, 4)} <= {chain.signal(1).grid for chain in chains.values()}


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_pretraining_run_becomes_the_networks_own_weights(chains: dict[str, Chain], name: str):
    chain = chains[name]
    blueprint = ReassemblyBlueprint(
        blocks=(BlockSpec(name, (0, len(chain) - 1)),),
        adapters=(),
        head=HeadSpec(classes=EMBEDDED[name].classes),
        networks={name: digest(chain.network)},
    )
    tuned = assemble(blueprint, chains)
    network = load_network(replace(EMBEDDED[name], weights=None))
    found, state = whole_network(to_bundle(tuned, chains, complete=True))
    network.load_state_dict(state)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(images), tuned(images))
    assert found == name
    assert {tensor.dtype for tensor in halved(state).values()} <= {torch.float16, torch.int64}


def test_a_bundle_of_learnt_tensors_alone_becomes_no_weights(chains: dict[str, Chain]):
    name, chain = next(iter(chains.items()))
    blueprint = ReassemblyBlueprint(
        (BlockSpec(name, (0, 3)),), (), HeadSpec(classes=("a", "b")), {name: digest(chain.network)}
    )
    with pytest.raises(UserError, match="method=baseline tuning=full"):
        whole_network(to_bundle(assemble(blueprint, chains), chains))


def test_embedded_weights_are_small_half_precision_and_loaded_in_single():
    files = [stated.weights.path for stated in EMBEDDED.values()]
    assert sum(file.stat().st_size for file in files) < 6e6
    for file, stated in zip(files, EMBEDDED.values(), strict=True):
        stored = {tensor.dtype for tensor in load_file(file).values()}
        assert stored <= {torch.float16, torch.int64}
        assert {parameter.dtype for parameter in load_network(stated).parameters()} == {torch.float32}


def test_every_embedded_entry_has_an_experiment_that_remakes_it():
    folder = PROJECT_ROOT / "conf" / "experiment" / "pretrain"
    assert {path.stem for path in folder.glob("*.yaml")} == set(EMBEDDED)
    for name, stated in EMBEDDED.items():
        assert f"experiment=pretrain/{name}" in stated.command


# Networks.


def test_random_weights_depend_on_the_name_alone_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = load_network(entry()), load_network(entry())
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(first) == digest(second)
    assert digest(first) != digest(load_network(replace(entry(), name="other")))
    assert not first.training


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_builds_timm_and_torchvision_networks(source: str):
    network = (
        load_network(replace(find_entry(f"{source}:mobilenet_v3_small"), kwargs={"num_classes": 3}))
        if (source == "torchvision")
        else load_network(timm_entry("test_resnet", kwargs={"num_classes": 3}))
    )
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (timm_entry("resnet81"), "did you mean resnet18"),
        (timm_entry("resnet18.nowhere"), "a1_in1k"),
        (timm_entry("resnet18", weights=Weights(hub="nowhere")), "a1_in1k"),
        (timm_entry("resnet18", kwargs={"colour": True}), "colour"),
        (replace(timm_entry("resnet81"), source="torchvision"), "did you mean resnet18"),
        (replace(timm_entry("resnet18", weights=Weights(hub="V9")), source="torchvision"), "IMAGENET1K_V1"),
        (ZooEntry("x", "my_factories:missing", GREY), "missing"),
        (ZooEntry("x", "no_such_module:factory", GREY), "no_such_module"),
        (ZooEntry("x", "my_factories:number", GREY), "nn.Module"),
        (ZooEntry("x", "my_factories:network", GREY, kwargs={"depth": 3}), "depth"),
    ],
)
def test_refuses_what_cannot_be_built(given: ZooEntry, told: str):
    with pytest.raises(UserError, match=told) as refusal:
        load_network(given)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(given.name)


def test_hub_weights_without_a_network_name_the_file_to_provide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"https://huggingface.co/timm/test_resnet.r160_in1k .*weights: {file: PATH}"):
        load_network(timm_entry("test_resnet", weights=Weights(hub=True)))


# Weights files.


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_checkpoints_in_their_wrappers(trained, tmp_path: Path, wrapper: str | None, prefix: str):
    state = {prefix + key: tensor for key, tensor in trained.items()}
    content = {wrapper: state, "epoch": 3, "best": 0.5} if wrapper else state
    torch.save(content, tmp_path / "weights.pth")
    assert same(load_network(entry(tmp_path / "weights.pth")), trained)


def test_averaged_weights_come_before_the_last_ones(trained, tmp_path: Path):
    last = {key: torch.zeros_like(tensor) for key, tensor in trained.items()}
    torch.save({"state_dict": last, "state_dict_ema": trained}, tmp_path / "weights.pth")
    assert same(load_network(entry(tmp_path / "weights.pth")), trained)


def test_strips_a_key_prefix_and_leaves_the_rest(trained, tmp_path: Path):
    state = {f"backbone.{key}": tensor for key, tensor in trained.items()} | {"decoder.weight": torch.ones(1)}
    save_file(state, tmp_path / "weights.safetensors")
    assert same(load_network(entry(tmp_path / "weights.safetensors", key_prefix="backbone.")), trained)
    with pytest.raises(UserError, match=r"no key .* starts with 'encoder.'; its keys are backbone"):
        load_network(entry(tmp_path / "weights.safetensors", key_prefix="encoder."))


def test_fits_foreign_names_by_order(trained, tmp_path: Path):
    foreign = {f"layer_{i}": value for i, (key, value) in enumerate(trained.items()) if "num_batches" not in key}
    torch.save(foreign, tmp_path / "weights.pth")
    assert same(load_network(entry(tmp_path / "weights.pth", match="order")), trained)
    with pytest.raises(UserError, match=r"missing: 0.weight, 0.bias, 1.weight \(\+"):
        load_network(entry(tmp_path / "weights.pth"))
    foreign["layer_0"] = foreign["layer_0"].flatten()
    torch.save(foreign, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"layer_0 36 meets 0.weight 4x1x3x3"):
        load_network(entry(tmp_path / "weights.pth", match="order"))
    torch.save(dict(list(foreign.items())[1:]), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"layer_1 4 meets 0.weight"):
        load_network(entry(tmp_path / "weights.pth", match="order"))


def test_names_what_does_not_fit_key_by_key_shortened(trained, tmp_path: Path):
    state = dict(trained)
    state["3.weight"] = torch.zeros(10, 784)
    state |= {f"extra.{i}": torch.ones(1) for i in range(9)}
    del state["0.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError) as refusal:
        load_network(entry(tmp_path / "weights.pth"))
    for told in ("missing: 0.bias", "unexpected: extra.0, extra.1, extra.2 (+6 more)", "3.weight 10x784 for 2x784"):
        assert told in str(refusal.value)


def test_checks_the_digest_of_the_file(trained, tmp_path: Path):
    import hashlib

    path = tmp_path / "weights.safetensors"
    save_file(trained, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(load_network(entry(path, sha256=right)), trained)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"expected {right[:12]}"):
        load_network(entry(path, sha256=right))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_refuses_missing_and_damaged_files(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(UserError, match=f"small: .*{name} does not exist; put it there"):
        load_network(entry(tmp_path / name))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"small: .*{name}"):
        load_network(entry(tmp_path / name))


def test_never_runs_code_out_of_a_file(tmp_path: Path):
    torch.save(nn.Linear(2, 2), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="more than tensors"):
        load_network(entry(tmp_path / "weights.pth"))
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        load_network(entry(tmp_path / "weights.pth"))


# Zoo files.


def test_reads_the_same_zoo_from_a_file_and_from_a_mapping():
    path = ZOO_FOLDER / "embedded.yaml"
    assert dict(read_zoo(path)) == dict(read_zoo(yaml.safe_load(path.read_text()))) == dict(EMBEDDED)


def test_input_falls_back_to_the_zoo_then_to_the_published_weights():
    own = {"channels": 1, "height": 32, "width": 48, "mean": [0], "std": [1]}
    network = {"source": "timm", "model": "vit_tiny_patch16_224"}
    assert read_zoo(zoo_of(network | {"input": own}))["net"].input == InputSpec(1, 32, 48, (0.0,), (1.0,), "bicubic")
    assert read_zoo(zoo_of(network, input=own))["net"].input.width == 48
    published = read_zoo(zoo_of(network))["net"].input
    assert (published.channels, published.height, published.mean) == (3, 224, (0.5, 0.5, 0.5))
    grey = read_zoo(zoo_of(network | {"kwargs": {"in_chans": 1, "img_size": 32}}))["net"].input
    assert (grey.channels, grey.height, grey.width, grey.mean) == (1, 32, 32, (0.5,))
    vision = read_zoo(zoo_of({"source": "torchvision", "model": "resnet18"}))["net"].input
    assert (vision.height, vision.interpolation) == (224, "bilinear")


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"source": "timm", "model": "resnet18", "wieghts": None}, "did you mean 'weights'"),
        ({"source": "timm", "model": "resnet18", "weights": {"fil": "x"}}, "did you mean 'file'"),
        ({"source": "timm", "model": "resnet18", "weights": {}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "file": "x"}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "match": "order"}}, "belong to `file`"),
        ({"source": "timm", "model": "resnet18", "weights": {"file": "x", "match": "shape"}}, "name or order"),
        ({"source": "timm", "model": "resnet18", "classes": ["a", "b", "a"]}, "classes given twice: a"),
        ({"source": "timm", "model": "resnet18", "classes": "ab"}, "expected a list"),
        ({"source": "timm", "model": "resnet18", "kwargs": [1]}, "expected a mapping"),
        ({"source": "timm"}, "net"),
        ({"source": "keras", "model": "resnet18", "input": ONE_PIXEL}, "module:factory"),
        ({"model": "resnet18"}, "source"),
        ({"source": "my_factories:network"}, "input"),
        ({"source": "my_factories:network", "model": "a", "input": {}}, "missing field"),
        ({"source": "timm", "model": "resnet81"}, "did you mean resnet18"),
        (["timm"], "expected a mapping"),
    ],
)
def test_refuses_wrong_entries_in_one_line(network: Any, told: str):
    with pytest.raises(UserError, match=told) as refusal:
        read_zoo(zoo_of(network))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 3, "height": 8, "width": 8, "mean": [0.5], "std": [1, 1, 1]},
        {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0]},
        {"channels": 1, "height": 0, "width": 8, "mean": [0.5], "std": [1]},
    ],
)
def test_refuses_wrong_input(wrong: dict[str, Any]):
    with pytest.raises(UserError, match="input"):
        read_zoo(zoo_of({"source": "timm", "model": "resnet18"}, input=wrong))


def test_refuses_wrong_zoo_files(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read_zoo(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no network"):
        read_zoo({"name": "empty", "networks": {}})
    with pytest.raises(UserError, match="did you mean 'networks'"):
        read_zoo({"name": "x", "network": {}})


def test_finds_entries_by_word():
    assert find_entry("vit_digits") == find_entry("embedded/vit_digits") == EMBEDDED["vit_digits"]
    assert find_entry("timm:resnet18").model == "resnet18"
    assert find_entry("torchvision:resnet18").source == "torchvision"
    assert find_entry("my_factories:network").source == "my_factories:network"
    for word, told in [("vit_digit", "did you mean 'vit_digits'"), ("timm:resnet81", "did you mean resnet18")]:
        with pytest.raises(UserError, match=told):
            find_entry(word)
    with pytest.raises(UserError, match="did you mean 'vit_digits'"):
        EMBEDDED.entry("vit_digit")
