from __future__ import annotations

import copy

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.data import prepare_inputs
from tuning.norm_stats import choose_norm_stats, has_norm_stats
from tuning.settings import TuningSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained() -> StandIn:
    """A network whose statistics are those of the images."""
    network, data = StandIn(dropout=0.0).train(), Blobs()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    images, labels = data.splits["train"]
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def shift_statistics(network: StandIn) -> None:
    """To those of other images."""
    for norm in (network.first[1], network.adapter[1], network.second[1]):
        norm.running_mean += 30 * norm.running_var.sqrt()


@torch.no_grad()
def silence(network: StandIn) -> None:
    """Three channels that these images hardly excite, by noise alone, which would drown the others at unit variance."""
    convolution, norm = network.first[0], network.first[1]
    convolution.weight[:3] = 1e-4 * torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    for tensor, value in ((convolution.bias, 0), (norm.running_mean, 0), (norm.running_var, 1), (norm.bias, 0)):
        tensor[:3] = value
    norm.weight[:3] = 50


@pytest.mark.parametrize(("spoil", "expected"), [(silence, "frozen"), (shift_statistics, "adaptive")])
def test_the_look_takes_the_statistics_that_serve_the_head(spoil, expected, trained):
    network, data = copy.deepcopy(trained), Blobs()
    spoil(network)
    network.freeze("full", norm_stats="frozen")
    before = copy.deepcopy(network.state_dict())
    inputs = prepare_inputs(network, data, TuningSettings(mode="full"), CPU)
    assert choose_norm_stats(network, "full", inputs, CPU) == expected
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module.training for module in network.modules())
    assert network.first[1].momentum == 0.1


def test_statistics_that_nothing_trains_need_no_look(trained):
    assert has_norm_stats(trained, "full")
    assert has_norm_stats(trained, "freeze")
    assert not has_norm_stats(trained, "probe")
