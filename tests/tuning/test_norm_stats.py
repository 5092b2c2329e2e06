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


@pytest.mark.parametrize(("is_spoilt", "expected"), [(False, "frozen"), (True, "adaptive")])
def test_the_look_takes_the_statistics_that_serve_the_head(is_spoilt, expected, trained):
    network, data = copy.deepcopy(trained), Blobs()
    if is_spoilt:
        for norm in (network.first[1], network.adapter[1], network.second[1]):
            norm.running_mean += 30 * norm.running_var.sqrt()
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
