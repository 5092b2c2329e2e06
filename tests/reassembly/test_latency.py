"""What parts of compositions take, on a clock that goes on by a nanosecond with every multiply-accumulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import pytest
import timm
import torch

from reassembly.latency import LatencyCheck, LatencyTable, seam_key, spread, time_adapter, time_floor, time_network
from reassembly.network import assembled_costs
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.chain.costs import MacCounter

CPU = torch.device("cpu")
DIGEST = "sha256:" + 64 * "0"
SPEC = AdapterSpec("linear", 3, "random")
Clock = Callable[[], float]


@pytest.fixture
def clock() -> Iterator[Clock]:
    with MacCounter() as counter:
        yield lambda: counter.macs / 1e9


@pytest.fixture(scope="module")
def chains() -> Mapping[str, Chain]:
    with torch.random.fork_rng(devices=[]):
        resnet = timm.create_model("resnet18", in_chans=1, layers=[1, 1, 1, 1], channels=[8, 12, 16, 20])
        kwargs = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "num_blocks": 3}
        mixer = timm.models.mlp_mixer.MlpMixer(in_chans=1, **kwargs)
    image = torch.zeros(1, 1, 24, 24)
    return {name: Chain.from_network(net, image, name=name) for name, net in (("resnet", resnet), ("mixer", mixer))}


def table_of(chains: Mapping[str, Chain], clock: Clock, batch_size: int = 1, num_classes: int = 10) -> LatencyTable:
    options = {"batch_size": batch_size, "num_repeats": 2, "floor": 0, "device": CPU, "clock": clock}
    networks = {name: time_network(chain, num_classes, **options) for name, chain in chains.items()}
    signals = [chain.signal(cut) for chain in chains.values() for cut in range(1, len(chain))]
    adapters = {seam_key(a, b, SPEC): time_adapter(a, b, SPEC, **options) for a in signals for b in signals}
    return LatencyTable(networks, adapters, floor=0, device="", batch_size=batch_size)


COMPOSITIONS = (
    (("resnet", 0, None),),
    (("mixer", 0, 3),),
    (("resnet", 0, 3), ("mixer", 2, None)),
    (("mixer", 0, 3), ("resnet", 2, 4)),
)


@pytest.mark.parametrize("parts", COMPOSITIONS, ids=["whole", "truncated", "assembly", "truncated assembly"])
def test_the_parts_add_up_to_the_time_of_the_whole(chains: Mapping[str, Chain], clock: Clock, parts: tuple) -> None:
    table = table_of(chains, clock, batch_size=2)
    blocks = tuple(BlockSpec(name, (start, stop or len(chains[name]) - 1)) for name, start, stop in parts)
    blueprint = ReassemblyBlueprint(
        blocks, (SPEC,) * (len(blocks) - 1), HeadSpec(num_classes=10), {block.network: DIGEST for block in blocks}
    )
    seams = (
        table.seam(chains[a.network].signal(a.nodes[1]), chains[b.network].signal(b.nodes[0]), SPEC)
        for a, b in pairwise(blocks)
    )
    predicted = sum(map(table.block, blocks)) + sum(seams) + table.ending(blocks[-1])
    assert predicted == 2 * assembled_costs(blueprint, chains).macs


def test_the_floor_is_taken_off_every_part_and_added_once(chains: Mapping[str, Chain]) -> None:
    ticks = iter(range(10**6))

    def clock() -> float:  # every call takes a millisecond
        return next(ticks) / 1000

    floor = time_floor(CPU, 5, clock)
    options = {"batch_size": 1, "num_repeats": 3, "device": CPU, "clock": clock}
    network = time_network(chains["mixer"], 10, floor=floor, **options)
    table = LatencyTable({"mixer": network}, {}, floor, "", 1)
    whole = BlockSpec("mixer", (0, len(network.nodes)))
    assert (floor, table.block(whole), table.ending(whole)) == (10**6, 0, 10**6)
    faster = time_network(chains["mixer"], 10, floor=400_000, **options)
    assert set(faster.nodes) == set(faster.mean_pools) == {600_000}


def test_timing_draws_nothing_from_the_global_generator_and_leaves_the_mode(chains: Mapping[str, Chain]) -> None:
    state, network = torch.get_rng_state(), chains["resnet"].network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    options = {"batch_size": 2, "num_repeats": 1, "floor": 0, "device": CPU}
    time_network(chains["resnet"], 3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_an_error_is_a_share_of_what_was_measured() -> None:
    assert LatencyCheck("", 1.1, 1.0).relative_error == pytest.approx(0.1)
    assert LatencyCheck("", 0.9, 1.0).relative_error == pytest.approx(-0.1)


def test_those_that_are_timed_are_the_pick_and_others_from_the_fastest_to_the_slowest() -> None:
    latencies = [7, 3, 9, 1, 5, 8, 2, 6, 4]
    chosen = [latencies[n] for n in spread(latencies, 4)]
    assert (chosen[0], min(chosen), len(set(chosen))) == (7, 1, 4)
    assert spread([5]) == [0]
    assert spread([2, 1]) == [0, 1]
