"""Networks whose head reads the features behind every block: built, costed, tuned, kept, given other classes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from reassembly.network import assemble, assembled_costs, from_bundle, to_bundle, use_rows
from tests.tuning.tuning_stand_ins import Blobs
from tuning import all_cuts
from tuning.all_cuts import refits_on_all_cuts
from tuning.fit import tune
from tuning.heads import HeadRows
from tuning.ridge import fit_ridge
from tuning.settings import HeadSettings, OptimizerSettings, TuningSettings
from zoo.blueprint import (
    AdapterSpec,
    BlockSpec,
    HeadSpec,
    ReassemblyBlueprint,
    parse_blueprint,
    read_bundle,
    to_text,
    write_bundle,
)
from zoo.chain import Chain
from zoo.chain.costs import count
from zoo.chain.signals import pool
from zoo.digests import digest
from zoo.errors import UserError

IMAGE = torch.zeros(1, 1, 16, 16)
NUM_CLASSES = 3
OWN = AdapterSpec("linear", 3, "identity")
SEAM = AdapterSpec("linear", 1, "random")
NOTHING = AdapterSpec("none")


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    kwargs = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            "resnet": timm.create_model("resnet18", in_chans=1, layers=[1, 1, 1, 1], channels=[4, 6, 8, 10]).eval(),
            "vit": timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=3, **kwargs).eval(),
        }
    return {name: Chain.from_network(network, IMAGE, name=name) for name, network in networks.items()}


def recipe(chains, *blocks, own=NOTHING, inputs="all_cuts") -> ReassemblyBlueprint:
    specs = tuple(BlockSpec(name, (start, stop)) for name, start, stop in blocks)
    adapters = tuple(own if after.continues(before) else SEAM for before, after in pairwise(specs))
    digests = {name: digest(chains[name].network) for name in dict.fromkeys(block[0] for block in blocks)}
    return ReassemblyBlueprint(specs, adapters, HeadSpec(num_classes=NUM_CLASSES, inputs=inputs), digests)


def compositions(chains) -> dict[str, tuple[tuple, AdapterSpec]]:
    ends = {name: len(chain) - 1 for name, chain in chains.items()}
    mixed = (("resnet", 0, 2), ("resnet", 2, 3), ("vit", 2, 4), ("resnet", 4, ends["resnet"]))
    return {
        "assembled": (mixed, NOTHING),
        "truncated": ((("vit", 0, 2), ("vit", 2, 3)), NOTHING),
        "whole with own adapters": ((("vit", 0, 2), ("vit", 2, 4), ("vit", 4, ends["vit"])), OWN),
    }


NAMES = ("assembled", "truncated", "whole with own adapters")


@pytest.mark.parametrize("name", NAMES)
def test_the_head_reads_what_every_block_gives_at_the_stated_cost(chains, name):
    blocks, own = compositions(chains)[name]
    network = assemble(recipe(chains, *blocks, own=own), chains)
    x = torch.randn(5, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(1))
    expected, signal = [], x
    with torch.no_grad():
        for k, block in enumerate(network.blueprint.blocks):
            signal = network.blocks[k](signal if k == 0 else network.adapters[k - 1](signal))
            is_last = k == len(blocks) - 1
            cut = chains[block.network].signal(block.nodes[1])
            expected.append(network.neck(signal) if is_last else pool(signal, cut))
        assert torch.equal(network.forward_features(x), torch.cat(expected, 1))
        assert torch.equal(network(x), network.head(torch.cat(expected, 1)))
        for mode in ("freeze", "probe", "full"):
            prefix, rest = network.frozen_prefix(mode)
            between = prefix(x) if len(prefix) else x
            assert isinstance(between, torch.Tensor)
            assert torch.allclose(rest(between) if len(rest) else between, torch.cat(expected, 1), atol=1e-6)
    costs = count(network, IMAGE)
    assert costs == assembled_costs(network.blueprint, chains)
    narrow = assembled_costs(replace(network.blueprint, head=HeadSpec(num_classes=NUM_CLASSES)), chains)
    inner = sum(chains[b.network].signal(b.nodes[1]).channels for b in network.blueprint.blocks[:-1])
    assert costs.num_params - narrow.num_params == costs.macs - narrow.macs == inner * NUM_CLASSES


@pytest.mark.parametrize("name", NAMES)
def test_bundles_keep_it_and_other_classes_get_a_head_of_its_width(chains, name, tmp_path):
    blocks, own = compositions(chains)[name]
    network = assemble(recipe(chains, *blocks, own=own), chains, generator=torch.Generator().manual_seed(7))
    write_bundle(tmp_path / "bundle", to_bundle(network, chains))
    again = from_bundle(read_bundle(tmp_path / "bundle"), chains)
    x = torch.randn(3, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(x), network(x))
    use_rows(again, HeadRows(("a", "b", "c", "d"), {0: 1}, (), is_whole=False), seed=0)
    assert again.blueprint.head == HeadSpec(classes=("a", "b", "c", "d"), inputs="all_cuts")
    assert torch.equal(again.head.weight[0], network.head.weight[1])
    assert again(x).shape == (3, 4)


def test_recipes_of_earlier_versions_read_the_last_features_and_keep_their_text(chains):
    blocks, _ = compositions(chains)["truncated"]
    old = recipe(chains, *blocks, inputs="last")
    assert "inputs" not in to_text(old)
    assert parse_blueprint(to_text(old), "here") == old
    wide = replace(old, head=replace(old.head, inputs="all_cuts"))
    assert parse_blueprint(to_text(wide), "here") == wide
    assert old.composition == "vit[0:3]"
    with pytest.raises(UserError, match=r"head\.inputs"):
        parse_blueprint(to_text(wide).replace("all_cuts", "some_cuts"), "here")


@pytest.mark.parametrize("spec", [("linear", "auto", "identity"), ("paper", 1, "identity")])
def test_the_identity_exists_for_linear_adapters_of_a_size_alone(spec):
    with pytest.raises(UserError, match="identity"):
        AdapterSpec(*spec)


def test_the_identity_is_refused_between_blocks_of_two_networks(chains):
    wrong = recipe(chains, ("resnet", 0, 2), ("vit", 2, 3))
    with pytest.raises(UserError, match=r"adapters\[0\]\.initialisation: identity, but 'vit' from node 2"):
        replace(wrong, adapters=(OWN,))


def test_networks_with_own_adapters_begin_as_the_network_bit_for_bit_and_train_these_alone(chains):
    blocks, own = compositions(chains)["whole with own adapters"]
    network = assemble(recipe(chains, *blocks, own=own, inputs="last"), chains)
    x = torch.randn(3, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(1))
    plain = assemble(recipe(chains, ("vit", 0, len(chains["vit"]) - 1), inputs="last"), chains)
    with torch.no_grad():
        assert torch.equal(network.forward_features(x), plain.forward_features(x))
    network.freeze("freeze")
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"adapters", "head"}


class LargeBlobs(Blobs):
    """Blobs of the networks' size."""

    def __init__(self) -> None:
        super().__init__()
        upsample = nn.Upsample(scale_factor=2)
        self.splits = {split: (upsample(images), labels) for split, (images, labels) in self.splits.items()}


@pytest.mark.parametrize("mode", ["freeze", "full", "probe"])
@pytest.mark.parametrize("inputs", ["all_cuts", "auto"])
def test_tuning_solves_the_head_on_all_cuts_at_the_end(chains, mode, inputs, tmp_path):
    blocks, own = compositions(chains)["assembled"]
    network = assemble(recipe(chains, *blocks, own=own, inputs=inputs), chains)
    data = LargeBlobs()
    settings = TuningSettings(mode=mode, num_epochs=1, guard=inputs == "auto")
    result = tune(network, data, settings, run_dir=tmp_path, test=False)
    assert network.blueprint.head.inputs in ("last", "all_cuts")
    is_wide = network.blueprint.head.inputs == "all_cuts"
    assert is_wide == (result.choice in ("all_cuts", "start_all_cuts"))
    assert is_wide or inputs == "auto"
    if is_wide:
        images, labels = data.images("train", data.input)
        with torch.no_grad():
            features = nn.Sequential(*network.stages())(images)
            fit = fit_ridge(features, labels, NUM_CLASSES)
            solved = features.double() @ fit.weight.T + fit.bias
            given = network.head(features).double()
        temperature = float((given * solved).sum() / solved.square().sum())
        torch.testing.assert_close(given, temperature * solved, rtol=1e-3, atol=1e-3)
    assert result.num_parameters == count(network, IMAGE).num_params


@pytest.mark.parametrize("mode", ["freeze", "full"])
def test_nothing_ends_below_its_start_with_a_head_on_all_cuts(chains, mode, tmp_path, monkeypatch):
    """Training does harm at this rate; what a probe of the same network gives is what is kept."""
    monkeypatch.setattr(all_cuts, "broadcast", lambda is_better: True)
    blocks, data, found = (("vit", 0, 2), ("resnet", 2, len(chains["resnet"]) - 1)), LargeBlobs(), {}
    optimizer = OptimizerSettings(learning_rate=30.0)
    for how, settings in {
        "probe": TuningSettings(mode="probe", num_epochs=0),
        "harmed": TuningSettings(mode=mode, num_epochs=2, loss="cross_entropy"),
        "unguarded": TuningSettings(mode=mode, num_epochs=2, loss="cross_entropy", guard=False),
    }.items():
        network = assemble(recipe(chains, *blocks, inputs="auto"), chains)
        result = tune(network, data, settings, optimizer=optimizer, run_dir=tmp_path / how, test=False)
        found[how] = result, network
    (probe, plain), (result, network), (unguarded, _) = found.values()
    assert (probe.choice, result.choice, unguarded.choice) == ("all_cuts", "start_all_cuts", "all_cuts")
    assert "start_all_cuts" not in unguarded.val_accuracies
    ranks = {name: (-accuracy, result.val_losses[name]) for name, accuracy in result.val_accuracies.items()}
    assert min(ranks, key=ranks.get) == "start_all_cuts"
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_a_learnt_head_and_one_that_may_not_be_refitted_stay_what_they_are(chains):
    blocks, _ = compositions(chains)["assembled"]
    network = assemble(recipe(chains, *blocks, inputs="auto"), chains)
    plain, never = TuningSettings(), TuningSettings(head=HeadSettings(refit="never"))
    assert refits_on_all_cuts(network, plain, learnt=False, is_complete=True)
    assert not refits_on_all_cuts(network, plain, learnt=True, is_complete=True)
    assert not refits_on_all_cuts(network, plain, learnt=False, is_complete=False)
    assert not refits_on_all_cuts(network, never, learnt=False, is_complete=True)
