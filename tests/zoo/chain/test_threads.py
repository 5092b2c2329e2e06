"""Slicing beside other threads: they compute what they always do, and networks may be sliced in several at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoo import Chain
from zoo.chain import trace
from zoo.chain.modes import meta_pass
from zoo.errors import FOREIGN_FAULTS


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(4, 4, 3, padding=1), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return x + (self.conv(x) * self.scale).relu()


class Network(nn.Module):
    """Its glue makes tensors, reads parameters and asks for lengths, all of which are recorded in its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.ModuleList(Residual() for _ in range(3)),
            nn.Linear(4, 5),
        )
        self.shift = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        x = self.stem(x) + self.shift + torch.zeros(len(x), 4, 1, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)) + torch.arange(4))


def in_another_thread(action: Callable[[], object]) -> object:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(action())
        except FOREIGN_FAULTS as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_other_threads_compute_as_ever_while_a_network_is_recorded() -> None:
    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(2, 3, 8, 8)
    expected = network(x)
    found: list[object] = []

    class Watched(Network):
        def forward(self, x):
            found.append(in_another_thread(lambda: network(torch.tensor(x_numbers))))
            return super().forward(x)

    x_numbers = x.tolist()
    chain = Chain.from_network(Watched().eval(), torch.zeros(1, 3, 8, 8))
    assert len(chain) == 5
    assert len(found) > 2  # observed, recorded in both modes, verified
    for value in found:
        assert isinstance(value, torch.Tensor), value
        assert torch.equal(value, expected)


def test_networks_are_sliced_in_two_threads_at_once() -> None:
    torch.manual_seed(0)
    networks = [Network().eval() for _ in range(4)]
    chains: dict[int, object] = {}

    def slice_one(index: int) -> None:
        chains[index] = Chain.from_network(networks[index], torch.zeros(1, 3, 8, 8))

    threads = [threading.Thread(target=slice_one, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x = torch.randn(2, 3, 8, 8)
    for index, network in enumerate(networks):
        assert torch.equal(chains[index].block(0, 5)(x), network(x))


def test_nothing_of_torch_stays_replaced() -> None:
    before = (nn.Module.__call__, nn.Module.__getattr__, torch.zeros, torch.arange, vars(trace).get("len"))
    Chain.from_network(Network(), torch.zeros(1, 3, 8, 8))
    assert (nn.Module.__call__, nn.Module.__getattr__, torch.zeros, torch.arange, vars(trace).get("len")) == before


@functools.lru_cache(maxsize=4)
def positions(size: int) -> torch.Tensor:
    return torch.arange(size) * 2


@functools.cache
def without_limit(size: int) -> tuple[torch.Tensor, int]:
    return torch.arange(size), size


@functools.cache
def number(size: int) -> int:
    return size + 1


@pytest.mark.parametrize("is_used_before", [False, True])
def test_what_the_network_remembers_is_never_without_data(is_used_before: bool) -> None:
    class Remembering(Network):
        def forward(self, x):
            return super().forward(x + positions(x.shape[-1]) + without_limit(x.shape[-1])[0]) + number(3)

    torch.manual_seed(0)
    network, x = Remembering().eval(), torch.randn(2, 3, 8, 8)
    positions.cache_clear()
    without_limit.cache_clear()
    if is_used_before:
        network(x)
    with meta_pass():
        number(1)
        assert positions(8).is_meta
    assert number.cache_info().currsize > 0  # numbers may be kept
    chain = Chain.from_network(network, torch.zeros(1, 3, 8, 8))
    assert not positions(8).is_meta
    assert torch.equal(chain.block(0, len(chain))(x), network(x))
