from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo.digests import digest


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_does_not_depend_on_order_or_memory_layout(network: nn.Module):
    state = network.state_dict()
    reordered = {key: state[key] for key in reversed(state)}
    reordered["0.weight"] = state["0.weight"].permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not reordered["0.weight"].is_contiguous()
    assert digest(network) == digest(state) == digest(reordered) == digest(copy.deepcopy(network).train())
    assert digest(network).startswith("sha256:")


def test_one_bit_of_any_tensor_counts(network: nn.Module):
    before = digest(network)
    for key, tensor in network.state_dict().items():
        changed = {name: value.clone() for name, value in network.state_dict().items()}
        changed[key].reshape(-1).view(torch.uint8)[0] ^= 1
        assert digest(changed) != before, f"{key} {tensor.dtype}"


def test_zero_and_minus_zero_and_names_and_shapes_and_dtypes_count():
    zeros = torch.zeros(4)
    variants = [
        {"a": zeros},
        {"a": -zeros},
        {"b": zeros},
        {"a": zeros.view(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(0)},
        {},
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)


def test_takes_scalars_and_half_precision():
    state = {"count": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor([True])}
    assert digest(state) == digest({key: tensor.clone() for key, tensor in state.items()})
