"""The embedded zoo: what its entries state, and the way from a pre-training run to its weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from datamodules import MNIST5k
from launch.errors import CONF
from reassembly.network import assemble, to_bundle
from zoo.blueprint import BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.digests import digest
from zoo.embedded.__main__ import halved, whole_network
from zoo.errors import UserError
from zoo.loading import load_chain, load_network
from zoo.registry import read_zoo
from zoo.weights import PROJECT_ROOT

EMBEDDED = read_zoo(CONF / "zoo" / "embedded.yaml")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_network_reaches_its_stated_accuracy_on_images_it_has_not_seen(name: str):
    stated = EMBEDDED[name]
    data = MNIST5k(variant=name.split("_")[1], num_validation=400)  # the split of its experiment
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
