"""Blocks of networks with different, odd and not square inputs: an adapter gives each block its own grid."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from reassembly.network import AssembledNetwork, assemble, assembled_costs
from reassembly.stitch import stitch
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.chain.costs import count
from zoo.digests import digest

# timm's name or a class, arguments, height and width of the images.
NETWORKS = {
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 12, 16)}, (52, 36)),
    "distilled": (
        "deit_tiny_distilled_patch16_224",
        {"img_size": (40, 24), "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2},
        (40, 24),
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": (24, 48),
            "patch_size": 4,
            "window_size": (3, 6),
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (2, 2),
        },
        (24, 48),
    ),
    "mixer": (MlpMixer, {"img_size": (28, 20), "patch_size": 4, "embed_dim": 16, "num_blocks": 3}, (28, 20)),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 3, "embed_dim": 16, "num_heads": 2}, (48, 80)),
}


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, (model, kwargs, size) in NETWORKS.items():
            build = partial(timm.create_model, model) if isinstance(model, str) else model
            network = build(num_classes=4, **kwargs)
            found[name] = Chain.from_network(network.eval(), torch.zeros(1, 3, *size), name=name)
    return found


def composed(chains: dict[str, Chain], first: str, second: str, adapter: AdapterSpec) -> AssembledNetwork:
    middle = len(chains[second]) // 2
    blocks = (BlockSpec(first, (0, 2)), BlockSpec(second, (middle, len(chains[second]) - 1)))
    digests = {name: digest(chains[name].network) for name in (first, second)}
    return assemble(ReassemblyBlueprint(blocks, (adapter,), HeadSpec(num_classes=3), digests), chains)


def images_for(name: str) -> torch.Tensor:
    return torch.randn(6, 3, *NETWORKS[name][2], generator=torch.Generator().manual_seed(0))


def received(network: AssembledNetwork, images: torch.Tensor) -> torch.Tensor:
    """What comes into the last block."""
    seen: list[torch.Tensor] = []
    handle = network.blocks[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        assert network(images).shape == (len(images), 3)
    handle.remove()
    return seen[0]


def test_the_grids_are_odd_and_of_every_layout(chains: dict[str, Chain]) -> None:
    signals = {name: chain.signal(len(chain) // 2) for name, chain in chains.items()}
    assert {signal.layout for signal in signals.values()} == {"NCHW", "NHWC", "NLC"}
    assert signals["distilled"].num_prefix_tokens == 2
    assert {name: signal.grid for name, signal in signals.items()} == {
        "resnet": (7, 5),
        "distilled": (5, 3),
        "swin": (6, 12),
        "mixer": (7, 5),
        "xcit": (3, 5),
    }


@pytest.mark.parametrize(("first", "second"), list(permutations(NETWORKS, 2)), ids="-".join)
def test_every_block_gets_its_native_grid_at_the_counted_cost(
    chains: dict[str, Chain], first: str, second: str
) -> None:
    network = composed(chains, first, second, AdapterSpec("linear", 3, "closed_form"))
    network = stitch(network, chains, images_for)
    signal = network.adapters[0].target
    assert signal == chains[second].signal(len(chains[second]) // 2)
    images = images_for(first)
    x = received(network, images)
    assert x.shape == signal.shape(len(images))
    assert x.is_contiguous()
    assert count(network, images[:1]) == assembled_costs(network.blueprint, chains)


@pytest.mark.parametrize("second", [name for name in NETWORKS if name != "resnet"])
def test_images_of_another_size_change_nothing_behind_the_first_adapter(chains: dict[str, Chain], second: str) -> None:
    """A first block that takes any size feeds the next one its native grid all the same."""
    network = composed(chains, "resnet", second, AdapterSpec("paper", 1, "random"))
    signal = network.adapters[0].target
    for size in ((52, 36), (37, 91), (128, 64)):
        assert received(network, torch.randn(2, 3, *size)).shape == signal.shape(2)


def test_a_token_grid_at_another_size_is_read_off_the_number_of_tokens() -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 64), embed_dim=12, depth=3, num_heads=2, dynamic_img_size=True
    )
    resnet = timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 12, 16))
    networks: dict[str, nn.Module] = {"vit": vit.eval(), "resnet": resnet.eval()}
    chains = {
        name: Chain.from_network(network, torch.zeros(1, 3, 32, 64), name=name) for name, network in networks.items()
    }
    network = composed(chains, "vit", "resnet", AdapterSpec("linear", 1, "random"))
    signal = network.adapters[0].target
    assert received(network, torch.randn(2, 3, 64, 128)).shape == signal.shape(2)
