from __future__ import annotations

import copy

import pytest
import torch
from tuning_stand_ins import StandIn

from zoo.errors import UserError


def training_modules(network):
    return {name for name, module in network.named_modules() if module.training and not list(module.children())}


@pytest.mark.parametrize("norm_stats", ["frozen", "adaptive"])
def test_frozen_parts_stay_in_eval_whatever_calls_train(norm_stats):
    network = StandIn()
    network.freeze("freeze", norm_stats=norm_stats)
    expected = {"adapter.0", "head"} | ({"adapter.1"} if norm_stats == "adaptive" else set())
    for _ in range(2):
        network.eval()
        assert training_modules(network) == set()
        network.train()
        assert training_modules(network) == expected
    assert training_modules(copy.deepcopy(network).train()) == expected


@pytest.mark.parametrize(
    ("mode", "trained"),
    [("full", None), ("freeze", ("adapter.", "head.")), ("probe", ("head.",))],
)
def test_gradients_reach_the_trained_parameters_only(mode, trained):
    network = StandIn()
    network.freeze(mode)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (trained is None or name.startswith(trained)), name


def test_a_mode_can_be_taken_back():
    network = StandIn()
    network.freeze("probe")
    network.freeze("full")
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_full_with_frozen_statistics_trains_the_norms_but_keeps_their_statistics():
    network = StandIn()
    network.freeze("full", norm_stats="frozen")
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert network.first[1].weight.grad is not None
    assert network.first[3].training


@pytest.mark.parametrize(("mode", "length"), [("full", 0), ("freeze", 1), ("probe", 4)])
def test_the_frozen_prefix_ends_before_the_first_trained_stage(mode, length):
    network = StandIn()
    network.freeze(mode)
    network.eval()
    prefix, rest = network.frozen_prefix(mode)
    assert (len(prefix), len(rest)) == (length, 4 - length)
    images = torch.randn(2, 1, 5, 7)
    assert torch.equal(rest(prefix(images)), network.forward_features(images))


def test_unknown_mode():
    with pytest.raises(UserError, match=r"tuning\.mode=most is unknown; allowed are full, freeze, probe"):
        StandIn().freeze("most")


def test_the_trained_state_is_what_the_mode_may_change():
    network = StandIn()
    network.freeze("freeze")
    assert {name.rsplit(".", 1)[0] for name in network.trained_state()} == {"adapter.0", "adapter.1", "head"}
    assert "adapter.1.running_mean" in network.trained_state()
    network.freeze("full")
    assert network.trained_state().keys() == network.state_dict().keys()
