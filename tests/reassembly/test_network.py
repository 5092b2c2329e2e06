from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from reassembly.network import AssembledNetwork, assemble, assembled_costs, from_bundle, load, to_bundle
from reassembly.stitch import Stitches, stitch
from zoo.blueprint import AdapterSpec, BlockSpec, Bundle, HeadSpec, ReassemblyBlueprint, read_bundle, write_bundle
from zoo.chain import Chain
from zoo.chain.batches import Batches
from zoo.chain.costs import count
from zoo.chain.signals import pool
from zoo.digests import digest
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo
from zoo.stitching.adapters import closed_form_adapter
from zoo.weights import Weights

IMAGE = torch.zeros(1, 1, 24, 24)
VARIANTS = (
    AdapterSpec("linear", 3, "random"),
    AdapterSpec("linear", 1, "random"),
    AdapterSpec("paper", 1, "random"),
)


def build_network(family: str) -> nn.Module:
    if family == "resnet":
        return timm.create_model("resnet18", in_chans=1, num_classes=5, layers=[1, 1, 1, 1], channels=[8, 12, 16, 20])
    if family == "vit":
        kwargs = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 4, "num_heads": 2}
        return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=3, **kwargs)
    kwargs = {"img_size": 24, "patch_size": 2, "window_size": 3, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", in_chans=1, num_classes=4, **kwargs)


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {family: build_network(family).eval() for family in ("resnet", "vit", "swin")}
    for network in networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    return {name: Chain.from_network(network, IMAGE, name=name) for name, network in networks.items()}


def blueprint_of(chains, *blocks: tuple[str, int, int], adapters=VARIANTS, num_classes=10) -> ReassemblyBlueprint:
    specs = tuple(BlockSpec(name, (start, stop)) for name, start, stop in blocks)
    used = (
        AdapterSpec("none") if after.continues(before) else adapters[k % len(adapters)]
        for k, (before, after) in enumerate(pairwise(specs))
    )
    digests = {name: digest(chains[name].network) for name in sorted({block[0] for block in blocks})}
    return ReassemblyBlueprint(specs, tuple(used), HeadSpec(num_classes=num_classes), digests)


def compositions(chains) -> dict[str, tuple[tuple[str, int, int], ...]]:
    ends = {name: len(chain) - 1 for name, chain in chains.items()}
    return {
        "every layout": (("resnet", 0, 3), ("vit", 2, 4), ("swin", 2, 4), ("resnet", 3, ends["resnet"])),
        "class token at the end": (("swin", 0, 3), ("vit", 2, ends["vit"])),
        "cut off in the middle": (("vit", 0, 3), ("swin", 3, ends["swin"] - 1)),
        "whole network": (("vit", 0, ends["vit"]),),
        "whole network in pieces": (("swin", 0, 2), ("swin", 2, 3), ("swin", 3, ends["swin"])),
        "truncated network": (("resnet", 0, 2), ("resnet", 2, 3)),
        "one network twice": (("resnet", 0, 4), ("resnet", 2, ends["resnet"])),
    }


NAMES = (
    "every layout",
    "class token at the end",
    "cut off in the middle",
    "whole network",
    "whole network in pieces",
    "truncated network",
    "one network twice",
)


def images(num_images: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_images, 1, 24, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_costs_add_up_to_the_count_of_the_whole(chains, name):
    blueprint = blueprint_of(chains, *compositions(chains)[name])
    network = assemble(blueprint, chains)
    assert assembled_costs(blueprint, chains) == count(network, IMAGE)
    assert network(images()).shape == (6, 10)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_neck_are_copies_under_their_original_names(chains, name):
    blueprint = blueprint_of(chains, *compositions(chains)[name])
    before = {name: digest(chain.network) for name, chain in chains.items()}
    network = assemble(blueprint, chains)
    for k, block in enumerate(blueprint.blocks):
        original = chains[block.network].network.state_dict()
        for key, tensor in network.blocks[k].state_dict().items():
            assert torch.equal(tensor, original[key])
    assert {key.split(".")[0] for key in network.state_dict()} <= {"blocks", "adapters", "neck", "head"}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert {name: digest(chain.network) for name, chain in chains.items()} == before


@pytest.mark.parametrize("name", ["resnet", "vit", "swin"])
def test_whole_network_gives_its_head_the_features_of_the_original(chains, name):
    chain = chains[name]
    network = assemble(blueprint_of(chains, (name, 0, len(chain) - 1)), chains)
    original = chain.network
    with torch.no_grad():
        expected = original.forward_head(original.forward_features(images()), pre_logits=True)
        assert torch.equal(network.forward_features(images()), expected)


def test_pieces_of_a_network_are_the_network(chains):
    end = len(chains["swin"]) - 1
    whole = assemble(blueprint_of(chains, ("swin", 0, end)), chains)
    pieces = assemble(blueprint_of(chains, ("swin", 0, 2), ("swin", 2, end)), chains)
    assert torch.equal(whole(images()), pieces(images()))


def test_truncated_network_ends_in_mean_pooling(chains):
    network = assemble(blueprint_of(chains, ("vit", 0, 3)), chains)
    with torch.no_grad():
        tokens = chains["vit"].block(0, 3)(images())
        assert torch.equal(network.forward_features(images()), pool(tokens, chains["vit"].signal(3)))


def test_new_weights_come_from_the_generator_alone(chains):
    blueprint = blueprint_of(chains, ("resnet", 0, 3), ("vit", 2, 4))
    state = torch.random.get_rng_state()
    first, again, other = (
        assemble(blueprint, chains, generator=torch.Generator().manual_seed(seed))(images()) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_freeze_tuning_trains_adapters_and_head_and_nothing_else(chains):
    network = assemble(blueprint_of(chains, *compositions(chains)["every layout"]), chains)
    network.freeze("freeze")
    network.train()
    before = copy.deepcopy(network.state_dict())
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(images(seed=seed)), torch.arange(6)).backward()
        optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if name.startswith(("adapters.", "head."))}
    assert changed == expected


@pytest.mark.parametrize(("mode", "num_frozen"), [("full", 0), ("freeze", 1), ("probe", 4)])
def test_frozen_prefix_ends_where_training_begins(chains, mode, num_frozen):
    network = assemble(blueprint_of(chains, ("resnet", 0, 3), ("vit", 2, 4)), chains)
    prefix, rest = network.frozen_prefix(mode)
    assert len(prefix) == num_frozen
    assert torch.equal(rest(prefix(images())), network.forward_features(images()))


def test_network_without_adapters_is_frozen_up_to_its_head(chains):
    network = assemble(blueprint_of(chains, *compositions(chains)["whole network in pieces"]), chains)
    assert len(network.frozen_prefix("freeze")[1]) == 0


def scaled_images(scales: dict[str, float]):
    return lambda name: images(20) * scales[name]


def test_stitching_fits_every_adapter_behind_the_ones_before_it(chains):
    specs = (AdapterSpec("linear", 3), AdapterSpec("paper"), AdapterSpec("linear", "auto"))
    blueprint = blueprint_of(chains, *compositions(chains)["every layout"], adapters=specs)
    images_for = scaled_images({"resnet": 1.0, "vit": 0.5, "swin": 2.0})
    skeleton = assemble(blueprint, chains)
    before = digest(skeleton)
    network = stitch(skeleton, chains, images_for, batch_size=7)
    assert digest(skeleton) == before

    features = images_for("resnet")
    with torch.no_grad():
        for k, (spec, block) in enumerate(zip(specs, blueprint.blocks[1:], strict=True)):
            features = network.blocks[k](features)
            home = chains[block.network].block(0, block.nodes[0])(images_for(block.network))
            source = chains[blueprint.blocks[k].network].signal(blueprint.blocks[k].nodes[1])
            target = chains[block.network].signal(block.nodes[0])
            fit = closed_form_adapter(source, target, features, home, kind=spec.kind, kernel_size=spec.kernel_size)
            outputs = network.adapters[k](features)
            torch.testing.assert_close(outputs, fit.adapter.eval()(features), rtol=1e-2, atol=1e-2)
            assert network.blueprint.adapters[k] == replace(spec, kernel_size=fit.adapter.kernel_size)
            features = outputs
    assert count(network, IMAGE) == assembled_costs(network.blueprint, chains)

    streamed = stitch(skeleton, chains, lambda name: Batches(len(images_for(name)), partial(images_for(name).split, 5)))
    assert streamed.blueprint == network.blueprint
    for name, tensor in network.adapters.state_dict().items():
        torch.testing.assert_close(streamed.adapters.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_network_that_is_asked_for_again_is_stitched_once_and_the_same(chains):
    specs = (AdapterSpec("linear", 3), AdapterSpec("paper"), AdapterSpec("linear", "auto"))
    blueprint = blueprint_of(chains, *compositions(chains)["every layout"], adapters=specs)
    stitches, asked = Stitches(), []

    def images_for(name: str) -> torch.Tensor:
        asked.append(name)
        return images(20)

    first = stitches.assemble(blueprint, chains, images_for, seed=3)
    before, is_known = digest(first), len(asked)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()  # as tuning in place does
    again = stitches.assemble(blueprint, chains, images_for, seed=3)
    assert len(asked) == is_known > 0
    assert digest(again) == before
    assert again.blueprint == first.blueprint != blueprint
    assert not any(module.training for module in again.modules())


def test_stitching_leaves_random_and_absent_adapters_alone(chains):
    blocks = (("resnet", 0, 3), ("vit", 2, 3), ("vit", 3, 4), ("swin", 2, 4))
    specs = (AdapterSpec("linear", 1, "random"), None, AdapterSpec("linear", 1))
    skeleton = assemble(blueprint_of(chains, *blocks, adapters=specs), chains)
    network = stitch(skeleton, chains, lambda name: images(8))
    assert torch.equal(network.adapters[0].projection.weight, skeleton.adapters[0].projection.weight)
    assert isinstance(network.adapters[1], nn.Identity)
    assert not torch.equal(network.adapters[2].projection.weight, skeleton.adapters[2].projection.weight)


def test_stitching_a_network_to_itself_restores_it(chains):
    start, end = 3, len(chains["resnet"]) - 1
    blueprint = blueprint_of(chains, ("resnet", 0, start), ("resnet", start, end), adapters=())
    whole = assemble(blueprint, chains)
    stitched = replace(blueprint, adapters=(AdapterSpec("linear", "auto"),))
    network = stitch(assemble(stitched, chains), chains, lambda name: images(60))
    unseen = images(10, seed=9)
    error = (network.forward_features(unseen) - whole.forward_features(unseen)).square().mean()
    assert error < 0.02 * whole.forward_features(unseen).var(0).mean()


def tuned(network: AssembledNetwork, mode: str) -> AssembledNetwork:
    network.freeze(mode)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    F.cross_entropy(network(images()), torch.arange(6)).backward()
    optimizer.step()
    return network.eval()


@pytest.mark.parametrize("mode", ["freeze", "full", "probe"])
def test_bundle_rebuilds_bit_equal_outputs(chains, tmp_path, mode):
    blueprint = blueprint_of(chains, *compositions(chains)["every layout"], adapters=(AdapterSpec(),))
    network = tuned(stitch(assemble(blueprint, chains), chains, lambda name: images(8)), mode)
    write_bundle(tmp_path, to_bundle(network, chains, complete=mode == "full"))
    bundle = read_bundle(tmp_path)
    rebuilt = from_bundle(bundle, chains)
    assert torch.equal(rebuilt(images(seed=4)), network(images(seed=4)))
    assert digest(rebuilt) == digest(network)
    if mode != "full":
        assert all(name.startswith(("adapters.", "head.")) for name in bundle.tensors)


def test_complete_bundle_needs_no_weights_of_the_zoo(chains):
    network = tuned(assemble(blueprint_of(chains, ("resnet", 0, 3), ("vit", 2, 4)), chains), "full")
    others = {name: copy.deepcopy(chain) for name, chain in chains.items()}
    with torch.no_grad():
        for chain in others.values():
            for parameter in chain.network.parameters():
                parameter.zero_()
    rebuilt = from_bundle(to_bundle(network, chains, complete=True), others)
    assert torch.equal(rebuilt(images()), network(images()))
    with pytest.raises(UserError, match="network 'resnet': the blueprint was made with sha256:"):
        from_bundle(to_bundle(network, chains), others)


def test_changed_statistics_of_frozen_blocks_travel_along(chains):
    network = assemble(blueprint_of(chains, ("resnet", 0, 3)), chains)
    buffer = next(name for name in network.state_dict() if name.endswith("running_mean"))
    network.state_dict()[buffer].add_(1)
    assert torch.equal(from_bundle(to_bundle(network, chains), chains)(images()), network(images()))


def test_bundle_is_loaded_with_a_zoo_and_complete_without_its_weights(tmp_path):
    kwargs = {"img_size": 24, "patch_size": 8, "num_blocks": 2, "embed_dim": 8, "in_chans": 1, "num_classes": 3}
    source = "timm.models.mlp_mixer:MlpMixer"
    entry = ZooEntry("mixer", source, InputSpec(1, 24, 24, mean=(0.5,), std=(0.5,)), kwargs=kwargs)
    bare = Zoo("bare", [replace(entry, weights=Weights(file="missing.safetensors"))])
    chains = {"mixer": load_chain(entry)}
    network = tuned(assemble(blueprint_of(chains, ("mixer", 0, 2)), chains), "full")

    write_bundle(tmp_path, to_bundle(network, chains, complete=True))
    assert torch.equal(load(tmp_path, bare)(images()), network(images()))
    write_bundle(tmp_path, to_bundle(network, chains))
    assert torch.equal(load(tmp_path, Zoo("zoo", [entry]))(images()), network(images()))
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        load(tmp_path, bare)
    with pytest.raises(UserError, match="zoo empty has no network 'mixer'"):
        load(tmp_path, Zoo("empty", []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("head.bias"), "bundle: tensor 'head.bias' is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "bundle: its blueprint gives no tensor 'extra'"),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(3)}),
            "bundle: tensor 'head.bias' is torch.float32 [3], its blueprint expects torch.float32 [10]",
        ),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(10, dtype=torch.half)}),
            "bundle: tensor 'head.bias' is torch.float16 [10], its blueprint expects torch.float32 [10]",
        ),
    ],
)
def test_bundles_that_do_not_fit_are_refused(chains, change, message):
    bundle = to_bundle(assemble(blueprint_of(chains, ("resnet", 0, 3)), chains), chains)
    tensors = dict(bundle.tensors)
    change(tensors)
    with pytest.raises(UserError) as refusal:
        from_bundle(Bundle(bundle.blueprint, tensors, complete=False), chains)
    assert str(refusal.value) == message


def test_blueprints_that_the_zoo_cannot_build_are_refused(chains):
    blueprint = blueprint_of(chains, ("resnet", 0, 3))
    with pytest.raises(UserError, match="unknown network 'resnet': known: swin, vit"):
        assemble(blueprint, {name: chain for name, chain in chains.items() if name != "resnet"})
    with pytest.raises(UserError, match=r"did you mean 'resnet2'\?"):
        assemble(blueprint, {"resnet2": chains["resnet"]})
    length = len(chains["resnet"])
    with pytest.raises(UserError, match=rf"nodes \[0, {length}\] of 'resnet': its blocks end at node {length - 1}"):
        assemble(blueprint_of(chains, ("resnet", 0, length)), chains)
    wrong = replace(blueprint, networks={"resnet": "sha256:" + "0" * 64})
    with pytest.raises(UserError, match="network 'resnet': the blueprint was made with sha256:000000000000"):
        assemble(wrong, chains)
    assert assemble(wrong, chains, check_digests=False)(images()).shape == (6, 10)
