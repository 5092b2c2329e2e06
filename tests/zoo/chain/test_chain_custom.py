"""Slicing networks that a user wrote: glue of all sorts, shared modules, modes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.zoo.chain.custom_networks import (
    Body,
    Coordinates,
    Functional,
    Placed,
    PreActivation,
    Residual,
    Shared,
    Tokens,
    dense,
    multilayer_perceptron,
    plain,
    vision_transformer,
    weight_normed,
)
from zoo import Chain, UserError

# factory, image, kinds of the nodes, number of features
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], str, int]] = {
    "residual": (Body, (3, 28, 20), "sbbbbh", 16),
    "one channel": (lambda: Body(1), (1, 32, 32), "sbbbbh", 16),
    "functional": (Functional, (3, 28, 20), "sbbbh", 8),
    "pre-activation": (PreActivation, (3, 28, 20), "sbbbh", 8),
    "coordinates": (Coordinates, (3, 28, 20), "sbbbbh", 16),
    "placed": (Placed, (3, 28, 20), "sbbbbh", 16),
    "tokens": (Tokens, (3, 28, 20), "sbbbh", 24),
    "shared": (Shared, (3, 28, 20), "sbbbbh", 8),
    "plain": (plain, (3, 28, 20), "sbbh", 8),
    "dense": (dense, (3, 32, 32), "sblblbh", 20),
    "perceptron": (multilayer_perceptron, (3, 28, 20), "sbbbh", 32),
    "weight norm": (weight_normed, (3, 28, 20), "sbbbh", 8),
    "torchvision transformer": (vision_transformer, (3, 28, 28), "sbbbh", 24),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Chain, torch.Tensor]:
    factory, shape, kinds, num_features = NETWORKS[request.param]
    torch.manual_seed(0)
    network = factory()
    chain = Chain.from_network(network, torch.zeros(1, *shape), name=request.param)
    assert "".join(node.kind[0] for node in chain.nodes) == kinds
    assert chain.neck_dim == num_features
    return network, chain, torch.randn(3, *shape)


def run(pieces: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for piece in pieces:
        x = piece(x)
    return x


def test_equal_in_both_modes(case: tuple[nn.Module, Chain, torch.Tensor]) -> None:
    network, chain, x = case
    pieces = [chain.block(i, i + 1) for i in range(len(chain))]
    assert sorted(key for piece in pieces for key in piece.state_dict()) == sorted(network.state_dict())
    twin, copies = copy.deepcopy(network).train(), [copy.deepcopy(piece).train() for piece in pieces]
    torch.manual_seed(3)
    expected = twin(x)
    torch.manual_seed(3)
    assert torch.equal(run(copies, x), expected)
    statistics = twin.state_dict()
    assert all(torch.equal(value, statistics[key]) for piece in copies for key, value in piece.state_dict().items())
    assert torch.equal(run([piece.eval() for piece in copies], x), twin.eval()(x))


def test_inputs_stay_as_they_are(case: tuple[nn.Module, Chain, torch.Tensor]) -> None:
    network, chain, x = case
    network.eval()
    for index in range(len(chain)):
        assert tuple(x.shape) == chain.signal(index).shape(3)
        before = x.clone()
        y = chain.block(index, index + 1)(x)
        assert torch.equal(x, before)
        x = y


@pytest.mark.parametrize("name", ["residual", "functional", "pre-activation", "coordinates", "plain", "dense"])
def test_another_size(name: str) -> None:
    factory, shape, *_ = NETWORKS[name]
    network = factory().eval()
    chain = Chain.from_network(network, torch.zeros(1, *shape))
    x = torch.randn(2, 3, 40, 52)
    assert torch.equal(run([chain.block(i, i + 1) for i in range(len(chain))], x), network(x))


def test_tokens_on_a_grid_that_is_not_square() -> None:
    signal = Chain.from_network(Tokens(), torch.zeros(1, 3, 28, 20)).signal(2)
    assert (signal.layout, signal.channels, signal.grid, signal.num_prefix_tokens) == ("NLC", 24, (7, 5), 3)
    assert signal.stride == 4


def test_shared_modules_stay_in_one_node() -> None:
    network = Shared()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [node.name for node in chain.nodes[1:-1]] == [
        "blocks.0",
        "blocks.1 blocks.1",
        "blocks.3",
        "blocks.4 blocks.5",
    ]
    twin = copy.deepcopy(chain.block(4, 5))
    assert twin.blocks.get_submodule("4").conv1.weight is twin.blocks.get_submodule("5").conv1.weight


def test_parameters_that_are_never_used_ride_with_the_head() -> None:
    network = Body()
    network.unused = nn.Linear(3, 3)
    network.register_parameter("token", nn.Parameter(torch.zeros(4)))
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert set(chain.block(len(chain) - 1, len(chain)).state_dict()) == {
        *("head.weight", "head.bias", "unused.weight", "unused.bias", "token")
    }
    assert chain.costs.num_params == sum(parameter.numel() for parameter in network.parameters())


def test_nodes_by_hand() -> None:
    network = Body()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16), nodes=["blocks.0", "blocks.1"])
    assert [node.name for node in chain.nodes] == ["stem", "blocks.0", "blocks.1", "blocks.2 head"]
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    assert torch.equal(run([chain.block(0, 2), chain.block(2, 4)], x), network(x))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (["blocks.0", "layer9"], "has no module layer9"),
        (["blocks.0.conv1", "blocks.0.shortcut", "blocks.1"], "in front of blocks.0.shortcut"),
        ([], "nodes= takes names"),
    ],
)
def test_nodes_by_hand_that_are_no_nodes(nodes: list[str], reason: str) -> None:
    network = Body()
    network.blocks[0] = Residual(8, 8, 2)
    with pytest.raises(UserError, match=reason):
        Chain.from_network(network, torch.zeros(1, 3, 16, 16), nodes=nodes)


def test_network_without_stem_and_head() -> None:
    network = nn.Sequential(Residual(3, 8), Residual(8), Residual(8), Residual(8))
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [node.kind for node in chain.nodes] == ["stem", "block", "block", "head"]
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(chain.neck()(x), x.mean((2, 3)))


def test_mixed_modes_and_hooks_are_left_alone() -> None:
    network = Body()
    network.blocks[0].norm.eval()
    network.stem.weight.requires_grad_(False)
    calls: list[str] = []
    network.blocks[0].conv1.register_forward_hook(lambda *_: calls.append("conv1"))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert len(network.blocks[0].conv1._forward_hooks) == 1
    calls.clear()
    block = chain.block(1, 2)
    block(torch.randn(2, 8, 8, 8))
    assert calls == ["conv1"]
    assert not chain.block(0, 1).stem.weight.requires_grad


def test_network_without_data_has_costs() -> None:
    with torch.device("meta"):
        network = Body()
    chain = Chain.from_network(network, torch.zeros(1, 3, 28, 20))
    assert chain.costs == Chain.from_network(Body(), torch.zeros(1, 3, 28, 20)).costs
