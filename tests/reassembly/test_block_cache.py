"""ByteLimitedCache memory: what is kept, what is dropped, and that scores do not depend on it."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn

import reassembly.block_cache
from reassembly.assembly import Candidate
from reassembly.block_cache import BlockCache, ByteLimitedCache
from reassembly.matched_adapter import ChannelStatistics, channel_statistics
from reassembly.prefix_tree import ScoringData
from reassembly.scoring import score_candidates
from reassembly.settings import ProxySettings
from zoo import chain_cache
from zoo.blueprint import BlockSpec
from zoo.chain import Chain
from zoo.chain_cache import ChainCache
from zoo.entries import InputSpec, ZooEntry
from zoo.registry import Zoo

INPUT = InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3)


def build(width: int) -> nn.Module:
    layers = []
    for before in (3, width, width, width):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


@pytest.fixture
def zoo() -> Zoo:
    return Zoo("three", [ZooEntry(f"net{w}", f"{__name__}:build", INPUT, kwargs={"width": w}) for w in (4, 6, 8)])


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the networks in the order of their loading."""
    names: list[str] = []

    def load(entry: ZooEntry) -> nn.Module:
        names.append(entry.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(entry.kwargs["width"])
            return build(**entry.kwargs).eval()

    def load_chain(entry: ZooEntry) -> Chain:
        assert entry.name not in names, "sliced twice"
        return Chain.from_network(load(entry), entry.input.example(), name=entry.name)

    monkeypatch.setattr(chain_cache, "load_network", load)
    monkeypatch.setattr(chain_cache, "load_chain", load_chain)
    return names


def test_chains_beyond_the_limit_are_dropped_longest_unused_first(zoo: Zoo, loads: list[str]) -> None:
    sizes = {name: ChainCache(zoo)[name].costs.num_params for name in zoo}
    loads.clear()
    chains = ChainCache(zoo, max_params=sizes["net4"] + sizes["net8"])
    for name in ("net4", "net6", "net4", "net8", "net4", "net8", "net6"):
        assert chains[name].name == name
    assert loads == ["net4", "net6", "net8", "net6"]
    assert "net6" in chains
    assert "net5" not in chains
    assert len(loads) == 4


def test_a_dropped_network_is_freed_but_for_its_blocks(zoo: Zoo, loads: list[str]) -> None:
    blocks = BlockCache(ChainCache(zoo, max_params=0))
    blocks.want([BlockSpec("net4", (1, 2)), BlockSpec("net4", (2, 3))])
    block = blocks.block(BlockSpec("net4", (1, 2)))
    network = weakref.ref(blocks.chains["net4"].network)
    head = weakref.ref(network()[-1].weight)
    blocks.block(BlockSpec("net6", (1, 2)))
    gc.collect()
    assert network() is None
    assert head() is None
    assert blocks.block(BlockSpec("net4", (1, 2))) is block
    blocks.block(BlockSpec("net4", (2, 3)))
    assert loads == ["net4", "net6"]


class Viewing(nn.Module):
    """Reads its feature map by `view`, which needs one that is contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.mix(x.view(len(x), -1).view(x.shape))


@pytest.mark.parametrize(("layer", "is_copied"), [(nn.Conv2d(4, 4, 3, padding=1), True), (Viewing(), False)])
def test_blocks_with_convolutions_run_with_channels_last_where_they_can(layer: nn.Module, is_copied: bool) -> None:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.ReLU(), *head).eval()
    chain = Chain.from_network(network, INPUT.example(), name="net")
    x = torch.randn(3, *chain.signal(1).shape(1)[1:], generator=torch.Generator().manual_seed(0))
    block = BlockCache({"net": chain}).block(BlockSpec("net", (1, 2)))
    kernel, own = (next(p for p in module.parameters() if p.shape[-1] == 3) for module in (block, layer))
    assert (kernel is not own) == is_copied == kernel.is_contiguous(memory_format=torch.channels_last)
    assert own.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(block(x), chain.block(1, 2)(x))


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), -1)


def test_what_reads_a_map_by_view_is_given_one_that_is_contiguous() -> None:
    """Here the neck, behind blocks whose own maps have their channels last."""
    maps = (nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    network = nn.Sequential(*maps, Flat(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    chain = Chain.from_network(network, INPUT.example(), name="net")
    blocks = (BlockSpec("net", (0, 1)), BlockSpec("net", (1, len(chain) - 1)))
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = ScoringData(lambda name: images, torch.arange(12) % 3, 3)
    (scored,) = score_candidates([Candidate(blocks, "network", 0, 0)], {"net": chain}, data, ProxySettings(num_draws=1))
    assert math.isfinite(scored.scores["ridge"])


def test_the_largest_values_are_dropped_first() -> None:
    kept = ByteLimitedCache(max_bytes=10)
    for key, size in (("a", 3), ("b", 6), ("c", 2)):
        kept.put(key, key.upper(), size)
    assert ("a" in kept, "b" in kept, "c" in kept) == (True, False, True)
    assert kept["c"] == "C"
    kept.put("d", "D", 11)
    assert "d" not in kept
    assert "a" in kept


def test_scores_do_not_depend_on_the_memory(zoo: Zoo, loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [[BlockSpec(name, nodes) for name in zoo] for nodes in ((0, 2), (2, 4))]
    candidates = [Candidate((a, b), "assembly", 0, 0) for a in blocks[0] for b in blocks[1]]
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = ScoringData(lambda name: images, torch.arange(12) % 3, 3)

    def scores(max_params: int) -> list:
        settings = ProxySettings(num_draws=2, batch_size=5, also=("naswot",))
        return score_candidates(candidates, ChainCache(zoo, max_params), data, settings)

    plenty = scores(10**9)
    assert sorted(loads) == sorted(zoo)
    loads.clear()
    monkeypatch.setattr(reassembly.block_cache.ByteLimitedCache, "__contains__", lambda self, key: False)
    assert scores(0) == plenty
    assert len(loads) > len(zoo)


def test_statistics_of_batches_are_those_of_all() -> None:
    values = 5 + torch.randn(23, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    mean, variance = channel_statistics(values.split(7))
    torch.testing.assert_close(mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.var((0, 2, 3), correction=0))
    whole = ChannelStatistics()
    whole.add(values)
    torch.testing.assert_close(whole.compute(), (mean, variance))
