from __future__ import annotations

import pytest
import timm
import torch
from cloning_stand_ins import ARCHITECTURES, chain, randomised

from cloning.frozen import FrozenNetwork
from cloning.gates import num_gates, split_gates
from zoo.chain import Chain
from zoo.chain.costs import count
from zoo.entries import InputSpec
from zoo.loading import load_chain
from zoo.registry import read_zoo

SMALL = {
    "resnet": ("resnet18", 64, {"layers": [1, 1, 1, 1]}),
    "resnext": ("resnext50_32x4d", 64, {"layers": [1, 1, 1, 1]}),
    "regnet": ("regnety_002", 64, {}),
    "convnext": ("convnext_atto", 64, {"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 40]}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "efficientnet": ("efficientnet_lite0", 64, {}),
    "vit": ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        56,
        {"img_size": 56, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    ),
    "mixer": ("mixer_s32_224", 64, {"img_size": 64}),
    "vgg": ("vgg11", 64, {}),
    "densenet": ("densenet121", 64, {"block_config": (2, 2, 2, 2)}),
}
CASES = [f"own:{name}" for name in ARCHITECTURES] + [f"timm:{name}" for name in SMALL]


def as_network(case: str) -> FrozenNetwork:
    kind, name = case.split(":")
    if kind == "own":
        found = chain(name)
    else:
        model, size, kwargs = SMALL[name]
        with torch.random.fork_rng():
            network = timm.create_model(model, num_classes=5, **kwargs)
        found = Chain.from_network(randomised(network, 0), torch.zeros(1, 3, size, size), name=name)
    shape = found.signal(0).shape(1)[1:]
    return FrozenNetwork(found, tuple("abcde"), InputSpec(*shape, (0.5,) * shape[0], (0.5,) * shape[0]))


def drawn_gates(network: FrozenNetwork, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(num_gates(network.sites), generator=generator) < share).float()


def check(network: FrozenNetwork, gates: torch.Tensor, start: int) -> float:
    """The slim module equals the masked source, and costs what it says; its share of the whole MACs."""
    x = torch.randn(network.chain.signal(start).shape(3), generator=torch.Generator().manual_seed(4))
    slim = network.slim(gates, start)
    with torch.no_grad():
        found, expected = slim.network(x), network.features(x, start=start, gates=gates)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert slim.costs == count(slim.network, x[:1])
    return slim.costs.macs / network.chain.block_costs(start, len(network.chain)).macs


@pytest.mark.parametrize("case", CASES)
def test_a_slim_module_equals_the_masked_source_and_costs_what_it_says(case: str) -> None:
    network = as_network(case)
    before = network.digest()
    half = drawn_gates(network, 0.4)
    shares = [check(network, half, start) for start in (0, len(network.chain) // 2)]
    assert not network.slim(half, 0).masked
    assert min(shares) < 0.75
    check(network, torch.zeros_like(half), 0)
    x = torch.randn(network.chain.signal(0).shape(2), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        whole = network.slim(torch.ones_like(half), 0).network(x)
    assert torch.equal(whole, network.features(x))
    assert network.digest() == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.chain.network.modules())


def test_what_is_computed_once_for_a_batch_costs_whole() -> None:
    network = timm.create_model("xcit_nano_12_p16_224", num_classes=5, depth=1, in_chans=1)
    found = Chain.from_network(randomised(network, 0), torch.zeros(1, 1, 64, 64), name="xcit")  # encodes places anew
    source = FrozenNetwork(found, tuple("abcde"), InputSpec(1, 64, 64, (0.5,), (0.5,)))
    check(source, drawn_gates(source, 0.4), 0)
    check(source, torch.ones(num_gates(source.sites)), 0)


@pytest.mark.parametrize("name", list(read_zoo("embedded")))
def test_the_embedded_zoo_is_cut_everywhere(name: str) -> None:
    entry = read_zoo("embedded")[name]
    network = FrozenNetwork(load_chain(entry), entry.classes, entry.input)
    assert check(network, drawn_gates(network, 0.5), 0) < 0.7
    assert not network.slim(drawn_gates(network, 0.5), 0).masked


def closed(network: FrozenNetwork, **units: list[int]) -> torch.Tensor:
    """All gates open but some, by a part of the site's path."""
    gates = torch.ones(num_gates(network.sites))
    for site, part in zip(network.sites, split_gates(gates, network.sites), strict=True):
        for name, which in units.items():
            if site.path.startswith(name.replace("__", ".")):
                part[which] = 0
    return gates


def test_layers_have_the_widths_of_what_is_open() -> None:
    vit = as_network("own:vit")
    found = vit.slim(closed(vit, blocks__1__attn=[1], blocks__1__mlp=[0, 5, 9]), 0).network
    block = found.get_submodule("blocks.1")
    assert (block.attn.num_heads, block.attn.qkv.out_features, block.attn.proj.in_features) == (2, 3 * 16, 16)
    assert (block.mlp.fc1.out_features, block.mlp.fc2.in_features, block.mlp.fc2.out_features) == (93, 93, 24)

    mobile = as_network("own:mobilenet")
    found = mobile.slim(closed(mobile, blocks__2__0__bn1=[3], blocks__2__0__bn2=[3, 4]), 0).network
    block, whole = (network.get_submodule("blocks.2.0") for network in (found, mobile.chain.network))
    width = whole.conv_pw.out_channels
    layers = (block.conv_pw.out_channels, block.conv_dw.groups, block.se.conv_expand.out_channels)
    assert layers == (width - 2, width - 2, width - 2)  # the excitation goes with what it excites


def test_a_closed_input_of_an_open_depthwise_filter_stays_as_the_constant_that_it_is() -> None:
    mobile = as_network("own:mobilenet")
    gates = closed(mobile, blocks__2__0__bn1=[3])
    found = mobile.slim(gates, 0).network.get_submodule("blocks.2.0")
    width = mobile.chain.network.get_submodule("blocks.2.0").conv_dw.in_channels
    assert found.conv_dw.groups == width
    check(mobile, gates, 0)


def test_groups_of_a_convolution_stay_of_one_size() -> None:
    resnext = as_network("own:resnext")
    conv = resnext.chain.network.layer1[0].conv2
    per_group = conv.out_channels // conv.groups
    uneven = closed(resnext, **{"layer1__0__bn2": [0, 1], "layer1__0__act2": [0, 1]})
    even = uneven * closed(resnext, layer1__0__act2=[per_group, per_group + 1])
    for gates in (uneven, even):
        check(resnext, gates, 0)


class KnowsItsWidth(torch.nn.Module):
    """A forward that checks a width: its units cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.act, self.reduce = torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.expand(x))
        return x + self.reduce(hidden.reshape(len(x), 3, 4).reshape(len(x), 12))


def test_what_cannot_be_cut_stays_masked_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    blocks = [KnowsItsWidth() for _ in range(3)]
    plain = torch.nn.Sequential(torch.nn.Linear(8, 6), *blocks, torch.nn.Linear(6, 5))
    found = Chain.from_network(randomised(plain, 0), torch.zeros(1, 8), name="stubborn")
    network = FrozenNetwork(found, tuple("abcde"), InputSpec(1, 8, 1, (0.5,), (0.5,)))
    gates = drawn_gates(network, 0.5)
    with caplog.at_level("INFO"):
        slim = network.slim(gates, 0)
    assert set(slim.masked) == {site.path for site in network.sites}
    assert all("invalid" in why for why in slim.masked.values())
    assert "stubborn: closed units at" in caplog.text
    x = torch.randn(4, 8)
    with torch.no_grad():
        torch.testing.assert_close(slim.network(x), network.features(x, gates=gates))


def test_clones_of_the_same_gates_share_one_module() -> None:
    network = as_network("own:resnet")
    gates = drawn_gates(network, 0.5)
    first = network.slim(gates, 0)
    assert network.slim(gates.clone(), 0) is first
    assert network.slim(gates, 2) is not first


def test_gradients_reach_the_input_and_no_weight() -> None:
    network = as_network("own:convnext")
    slim = network.slim(drawn_gates(network, 0.5), 2)
    x = torch.randn(network.chain.signal(2).shape(2), requires_grad=True)
    slim.network(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert not any(p.requires_grad for p in slim.network.parameters())
