from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from tuning_stand_ins import StandIn

from reassembly.network import AssembledNetwork, assemble
from tuning.parameter_groups import parameter_groups, table
from tuning.settings import OptimizerSettings
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.digests import digest

SETTINGS = OptimizerSettings(learning_rate=0.1, block_scale=0.5, layer_decay=0.5, weight_decay=0.3)


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    small = {"in_chans": 1, "num_classes": 3, "img_size": 24}
    networks = {
        "resnet": timm.create_model(
            "resnet18", in_chans=1, num_classes=5, layers=[1, 1, 1, 1], channels=[8, 12, 16, 20]
        ),
        "vit": timm.create_model("vit_tiny_patch16_224", **small, patch_size=8, embed_dim=12, depth=4, num_heads=2),
        "swin": timm.create_model(
            "swin_tiny_patch4_window7_224",
            **small,
            patch_size=2,
            window_size=3,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
        ),
    }
    image = torch.zeros(1, 1, 24, 24)
    return {name: Chain.from_network(network.eval(), image, name=name) for name, network in networks.items()}


def assembled(chains: dict[str, Chain], *blocks: tuple[str, int, int]) -> AssembledNetwork:
    specs = tuple(BlockSpec(name, (start, stop)) for name, start, stop in blocks)
    adapters = (AdapterSpec("linear", 1, "random"),) * (len(specs) - 1)
    digests = {name: digest(chains[name].network) for name, _, _ in blocks}
    network = assemble(ReassemblyBlueprint(specs, adapters, HeadSpec(num_classes=4), digests), chains)
    network.freeze("full")
    return network


def by_parameter(network: nn.Module, settings: OptimizerSettings = SETTINGS) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter; each lies in exactly one group."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [
        (names[id(parameter)], (group.learning_rate, group.weight_decay))
        for group in parameter_groups(network, settings)
        for parameter in group.parameters
    ]
    assert sorted(name for name, _ in found) == sorted(
        name for name, parameter in network.named_parameters() if parameter.requires_grad
    )
    return dict(found)


def test_a_block_learns_at_the_rate_of_its_depth_in_its_own_network(chains):
    vit, swin = len(chains["vit"]), len(chains["swin"])
    assert (vit, swin) == (6, 7)
    found = by_parameter(assembled(chains, ("vit", 0, 3), ("swin", 4, swin - 1)))
    assert found["blocks.0.patch_embed.proj.weight"] == (0.1 * 0.5 * 0.5**5, 0.3)
    assert found["blocks.0.blocks.1.attn.qkv.weight"] == (0.1 * 0.5 * 0.5**3, 0.3)
    assert found["blocks.0.blocks.1.attn.qkv.bias"] == (0.1 * 0.5 * 0.5**3, 0.0)
    assert found["blocks.1.layers.1.blocks.0.mlp.fc1.weight"] == (0.1 * 0.5 * 0.5**2, 0.3)
    assert found["blocks.1.layers.1.blocks.1.mlp.fc1.weight"] == (0.1 * 0.5 * 0.5, 0.3)
    assert found["neck.norm.weight"] == (0.1 * 0.5, 0.0)
    assert found["adapters.0.projection.weight"] == found["head.weight"] == (0.1, 0.3)
    assert found["adapters.0.projection.bias"] == found["head.bias"] == (0.1, 0.0)


def test_tokens_and_tables_of_positions_are_not_decayed(chains):
    found = by_parameter(assembled(chains, ("resnet", 0, 2), ("vit", 2, 5)))
    assert found["adapters.0.prefix"] == (0.1, 0.0)
    found = by_parameter(assembled(chains, ("vit", 0, 2), ("swin", 2, 4)))
    exempt = {name.split(".", 2)[2] for name, (_, decay) in found.items() if name.startswith("blocks") and not decay}
    matrices = {name for name in exempt if not name.endswith(("bias", "norm1.weight", "norm2.weight", "norm.weight"))}
    assert matrices == {
        "cls_token",
        "pos_embed",
        "layers.0.blocks.1.attn.relative_position_bias_table",
    }


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_a_whole_network_has_the_groups_of_timm(chains, name):
    chain = chains[name]
    found = by_parameter(assembled(chains, (name, 0, len(chain) - 1)))
    ours = {path.split(".", 2 if path.startswith("blocks") else 1)[-1]: value for path, value in found.items()}
    original = chain.network
    listed = original.no_weight_decay() if hasattr(original, "no_weight_decay") else ()
    names = {id(parameter): path for path, parameter in original.named_parameters()}
    shared = ours.keys() & names.values()
    assert len(names) - len(shared) <= 2  # the original's head
    for group in param_groups_weight_decay(original, 0.3, no_weight_decay_list=listed):
        for parameter in group["params"]:
            if names[id(parameter)] in shared:
                assert ours[names[id(parameter)]][1] == group["weight_decay"], names[id(parameter)]
    if name == "vit":  # its layers are our nodes
        for group in param_groups_layer_decay(original, 0.3, listed, layer_decay=0.5):
            for parameter in group["params"]:
                if names[id(parameter)] in shared and not names[id(parameter)].startswith("norm."):  # as BEiT has it
                    assert ours[names[id(parameter)]][0] == pytest.approx(0.05 * group["lr_scale"])


def test_what_is_tied_is_learnt_once_at_the_rate_of_its_first_use():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.blocks = nn.ModuleList(Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3))
            self.blocks[2][0].weight = self.blocks[0][0].weight
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((2, 3)))

    chain = Chain.from_network(Tied().eval(), torch.zeros(1, 1, 8, 8), name="tied")
    found = by_parameter(assembled({"tied": chain}, ("tied", 0, len(chain) - 1)))
    first, last = "blocks.0.blocks.0.0", "blocks.0.blocks.2.0"
    assert found[f"{first}.weight"] == (0.1 * 0.5 * 0.5 ** (len(chain) - 2), 0.3)
    assert f"{last}.weight" not in found
    assert f"{last}.bias" in found


@pytest.mark.parametrize(
    ("mode", "parts"), [("full", {"blocks", "adapters", "head"}), ("freeze", {"adapters", "head"})]
)
def test_a_network_of_unknown_origin_and_what_is_frozen(mode, parts):
    network = StandIn()
    network.freeze(mode)
    groups = parameter_groups(network, SETTINGS)
    assert {group.name.split(",")[0] for group in groups} == parts
    assert len({group.name for group in groups}) == len(groups)
    rates = {group.name: group.learning_rate for group in groups}
    assert rates["adapters"] == rates["head"] == 0.1
    assert rates.get("blocks", 0.05) == 0.05
    assert by_parameter(network).keys() == {name for name, p in network.named_parameters() if p.requires_grad}


def test_scales_and_norms_that_are_no_vectors():
    network = StandIn()
    network.second.scale = nn.Parameter(torch.ones(10, 1, 1))
    network.second.norm = nn.LayerNorm([10, 4, 4])
    network.second.narrow = nn.Linear(8, 1)
    network.second.register_module("pos", nn.ParameterDict({"class_token": nn.Parameter(torch.ones(2, 3, 4))}))
    network.freeze("full")
    found = by_parameter(network)
    assert found["second.scale"][1] == found["second.norm.weight"][1] == found["second.pos.class_token"][1] == 0
    assert found["second.narrow.weight"][1] == 0.3


def test_the_table_shows_every_group(chains):
    network = assembled(chains, ("vit", 0, 2), ("swin", 2, 4))
    groups = parameter_groups(network, SETTINGS)
    lines = table(groups)
    assert len(lines) == len(groups) + 1
    assert lines[0].split() == ["parameter", "group", "parameters", "rate", "decay"]
    head = next(line for line in lines if line.startswith("head "))
    assert head.split() == ["head", "64", "0.1", "0.3"]  # 16 features, 4 classes
    assert sum(group.num_parameters for group in groups) == sum(p.numel() for p in network.parameters())
    names = [group.name for group in parameter_groups(network, OptimizerSettings().for_loss("loo"))]
    assert set(names) == {f"{part}{end}" for part in ("vit", "swin", "adapters", "head") for end in ("", ", no decay")}
