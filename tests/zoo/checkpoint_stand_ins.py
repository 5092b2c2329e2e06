"""A small network and its checkpoint, read and refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.digests import digest
from zoo.errors import UserError
from zoo.weights import Weights, load_file

State = Mapping[str, Tensor]


def small(channels: int = 1, classes: int = 2) -> nn.Module:
    body = OrderedDict(stem=nn.Conv2d(channels, 4, 3), norm=nn.BatchNorm2d(4), pool=nn.AdaptiveAvgPool2d(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        return nn.Sequential(body | {"flatten": nn.Flatten(), "fc": nn.Linear(4, classes)}).eval()


def load(file: Path, network: nn.Module | None = None, **weights: Any) -> dict[str, Tensor]:
    network = network or small()
    load_file(network, Weights(file=str(file), **weights), "net")
    return network.state_dict()


def refusal(file: Path, network: nn.Module | None = None, **weights: Any) -> str:
    network = network or small()
    before = digest(network)
    with pytest.raises(UserError) as found:
        load_file(network, Weights(file=str(file), **weights), "net")
    assert digest(network) == before
    assert "\n" not in str(found.value)
    assert str(found.value).startswith("net: ")
    return str(found.value)


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
