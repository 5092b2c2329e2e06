from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from zoo import Chain, Costs
from zoo.chain.costs import count

GOLDEN = {
    "timm:resnet50": Costs(25_557_032, 4_089_184_256),
    "timm:vit_tiny_patch16_224": Costs(5_717_416, 1_253_683_200),
    "timm:swin_tiny_patch4_window7_224": Costs(28_288_354, 4_490_566_656),
    "timm:regnety_008": Costs(6_263_168, 797_176_832),
    "torchvision:regnet_y_800mf": Costs(6_432_512, 833_856_256),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_network_and_chain(name: str) -> None:
    library, _, model = name.partition(":")
    if library == "timm":
        with torch.device("meta"):
            network = timm.create_model(model)
    else:
        network = torchvision.models.get_model(model, weights=None).to("meta")
    x = torch.zeros(1, 3, 224, 224)
    chain = Chain.from_network(network, x)
    assert count(network, x) == GOLDEN[name]
    assert sum((node.costs for node in chain.nodes), Costs()) == chain.costs == GOLDEN[name]


class Handmade(nn.Module):
    """Every kind of product, as modules and as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.kernel = nn.Parameter(torch.randn(6, 8, 1, 1))
        self.linear = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(F.relu(self.norm(self.conv(x))), self.kernel)  # 7 x 5 positions
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.linear(tokens @ tokens.transpose(1, 2) @ tokens)


def test_counting_by_hand() -> None:
    network = Handmade().train()
    positions = 7 * 5
    convolutions = positions * (8 * 2 * 9 + 6 * 8)
    attention = 2 * positions * positions * 6
    products = 2 * positions * positions * 6
    expected = Costs(8 * 2 * 9 + 8 + 16 + 48 + 35, convolutions + attention + products + positions * 6 * 5)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    assert count(network, torch.zeros(1, 4, 14, 10)) == expected
    assert count(network, torch.zeros(3, 4, 14, 10)).macs == 3 * expected.macs
    assert network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_shared_parameters_count_once() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert count(network, torch.zeros(1, 4)) == Costs(16 + 4 + 4, 32)


def test_costs_add_up() -> None:
    assert Costs(1, 20) + Costs(3, 40) == Costs(4, 60)
    assert sum([Costs(1, 2), Costs(3, 4)], Costs()) == Costs(4, 6)
