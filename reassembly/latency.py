"""How long compositions take on this device, without building them: their parts are timed once, and add up.

Every node is timed where it stands, in passes through its whole chain, so that it finds the memory as it does in use;
adapters and endings are timed at their native signals. What a call costs that does nothing, the floor, is in every
measurement: it is taken off each part and added once. What comes out is a prediction; the search times the network it
picks and tells how far it was off.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from reassembly.assembly import Candidate
from reassembly.network import MeanPool
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain, Signal
from zoo.chain.modes import eval_mode
from zoo.progress import progress
from zoo.stitching.adapters import Adapter, usable_kernel_size
from zoo.storage.records import from_plain, to_plain
from zoo.storage.store import StageResult, Store
from zoo.timing import NUM_WARM_UPS, synchronise, timed_calls

NUM_REPEATS = 30
"""Measured passes of every part."""


@dataclass(frozen=True)
class NetworkLatency:
    """Of one network at its native resolution, nanoseconds without the floor.

    Attributes:
        nodes: One for each node, stem first, without the head.
        mean_pools: Of the mean over the grid and a classifier behind each of these nodes.
        neck: Of the network's own neck and a classifier.
    """

    nodes: tuple[int, ...]
    mean_pools: tuple[int, ...]
    neck: int


@dataclass(frozen=True)
class LatencyTable:
    """What the parts of a zoo's compositions take, in nanoseconds.

    Attributes:
        networks: By name.
        adapters: By the signals on both sides, as ``seam_key`` gives them.
        floor: Of a call that does nothing.
        device: What it was measured on, for the reader.
        batch_size: Images at once.
    """

    networks: Mapping[str, NetworkLatency]
    adapters: Mapping[str, int]
    floor: int
    device: str
    batch_size: int

    def block(self, spec: BlockSpec) -> int:
        """Of a run of nodes."""
        return sum(self.networks[spec.network].nodes[slice(*spec.nodes)])

    def ending(self, last: BlockSpec) -> int:
        """Of neck and head behind a last block, and the floor of the whole."""
        network = self.networks[last.network]
        at_end = last.nodes[1] == len(network.nodes)
        return self.floor + (network.neck if at_end else self.pooled(last))

    def pooled(self, block: BlockSpec) -> int:
        """Of the mean over the grid and a classifier behind a block."""
        return self.networks[block.network].mean_pools[block.nodes[1] - 1]

    def seam(self, source: Signal, target: Signal, spec: AdapterSpec) -> int:
        """Of the adapter between two signals."""
        return self.adapters[seam_key(source, target, spec)]


def seam_key(source: Signal, target: Signal, spec: AdapterSpec) -> str:
    """Names an adapter by all that its time depends on."""
    return f"{source} {target} {spec.kind} {spec.kernel_size}"


def device_name(device: torch.device) -> str:
    """The device as results of different ones are told apart: its model, and on the CPU the threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    return f"{device.type} {_cpu_model() or cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        return None


@torch.no_grad()
def time_floor(device: torch.device, num_repeats: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """What a call that does nothing takes, in nanoseconds."""
    call = _call(nn.Identity(), torch.zeros(1, device=device))
    return round(1e9 * timed_calls(call, num_repeats, clock).median)


@torch.no_grad()
def time_network(
    chain: Chain,
    num_classes: int,
    *,
    batch_size: int,
    num_repeats: int,
    floor: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> NetworkLatency:
    """Times all nodes and endings of a network, in passes from its input to its last cut.

    Args:
        chain: On the device.
        num_classes: Of the classifier behind each ending.
        batch_size: Images at once.
        num_repeats: Passes that are measured.
        floor: Nanoseconds, see ``time_floor``.
        device: Where to time.
        clock: Seconds, of any origin.
    """

    def ending(neck: nn.Module, num_features: int, signal: Signal) -> int:
        whole = nn.Sequential(neck, _classifier(num_features, num_classes)).to(device)
        call = _call(whole, _random(signal, batch_size, device))
        return _above(timed_calls(call, num_repeats, clock).median, floor)

    last = len(chain) - 1
    blocks = [chain.block(index, index + 1) for index in range(last)]
    images = _random(chain.signal(0), batch_size, device)
    signals = [chain.signal(cut) for cut in range(1, last + 1)]
    seconds: list[list[float]] = [[] for _ in blocks]
    with eval_mode(chain.network):
        for repeat in range(NUM_WARM_UPS + num_repeats):
            x = images.clone()  # a node may write into what it is given
            for block, found in zip(blocks, seconds, strict=True):
                start = clock()
                x = block(x)
                synchronise(device)
                if repeat >= NUM_WARM_UPS:
                    found.append(clock() - start)
        mean_pools = [ending(MeanPool(signal), signal.channels, signal) for signal in signals]
        neck = ending(chain.neck(), chain.neck_dim, signals[-1])
    own = tuple(_above(statistics.median(found), floor) for found in seconds)
    return NetworkLatency(own, tuple(mean_pools), neck)


@torch.no_grad()
def time_adapter(
    source: Signal,
    target: Signal,
    spec: AdapterSpec,
    *,
    batch_size: int,
    num_repeats: int,
    floor: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Nanoseconds of an adapter at its native signals, without the floor; ``auto`` is timed as the larger kernel."""
    wanted = 3 if spec.kernel_size == "auto" else spec.kernel_size
    size = usable_kernel_size(source, target, spec.kind, wanted)
    adapter = Adapter(source, target, kind=spec.kind, kernel_size=size).eval().to(device)
    x = _random(source, batch_size, device)
    return _above(timed_calls(_call(adapter, x), num_repeats, clock).median, floor)


def measure_parts(
    chains: Mapping[str, Chain],
    networks: Mapping[str, Any],
    seams: Iterable[tuple[Signal, Signal, AdapterSpec]],
    num_classes: int,
    batch_size: int,
    store: Store,
    device: torch.device,
) -> LatencyTable:
    """Times all parts on a device, or reads what was measured before on the same one.

    Args:
        chains: Of all networks.
        networks: What identifies each, by name.
        seams: On both sides of every adapter, and its kind.
        num_classes: Of the head.
        batch_size: Images at once.
        store: Of stage results: with the same device, threads and versions nothing is measured again.
        device: Of the chains.
    """
    name = device_name(device)
    common = {"device": name, "batch_size": batch_size, "num_repeats": NUM_REPEATS}

    def stored(inputs: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        return store.fetch("latency", {**common, **inputs}, lambda: StageResult(values=to_plain(measure()))).values

    options = {"batch_size": batch_size, "num_repeats": NUM_REPEATS, "device": device}
    floor = stored({"part": "floor"}, lambda: time_floor(device, NUM_REPEATS))
    found, adapters = {}, {}
    with progress("latency of networks", len(networks)) as advance:
        for network, identified in networks.items():
            inputs = {"network": identified, "num_classes": num_classes, "floor": floor}
            plain = stored(inputs, lambda n=network: time_network(chains[n], num_classes, floor=floor, **options))
            found[network] = from_plain(NetworkLatency, plain, f"latency of {network}")
            advance()
    wanted = {seam_key(*seam): seam for seam in seams}

    def adapter_times() -> dict[str, int]:
        return {key: time_adapter(*seam, floor=floor, **options) for key, seam in wanted.items()}

    adapters = stored({"adapters": sorted(wanted), "floor": floor}, adapter_times)
    return LatencyTable(found, adapters, floor, name, batch_size)


@dataclass(frozen=True)
class LatencyCheck:
    """A composition's latency as it was predicted and as the whole network was measured."""

    composition: str
    predicted_ms: float
    measured_ms: float

    @property
    def relative_error(self) -> float:
        """How far the prediction lies above (or, negative, below) what was measured, as a share of it."""
        return self.predicted_ms / self.measured_ms - 1


def spread(latencies: Sequence[int], count: int = 8) -> list[int]:
    """The first one and others spread over all, from the fastest to the slowest, by their positions."""
    order = sorted(range(len(latencies)), key=lambda n: latencies[n])
    steps = min(count, len(order)) - 1
    others = [order[round(k * (len(order) - 1) / max(1, steps))] for k in range(steps + 1)]
    return list(dict.fromkeys([0, *others]))[:count]


@torch.no_grad()
def timed_candidates(
    candidates: Sequence[Candidate],
    build: Callable[[int], nn.Module],
    chains: Mapping[str, Chain],
    batch_size: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LatencyCheck, ...]:
    """Times the first candidate and some others as whole networks.

    Args:
        candidates: With their predicted times, the pick first.
        build: Gives the network of the candidate of that number, in eval mode.
        chains: Of the networks that candidates begin with.
        batch_size: Images at once.
        device: Where to time.
        clock: Seconds, of any origin.
    """
    checks = []
    for n in spread([candidate.latency_ns for candidate in candidates]):
        network, candidate = build(n).to(device), candidates[n]
        images = _random(chains[candidate.blocks[0].network].signal(0), batch_size, device)
        found = timed_calls(_call(network, images), NUM_REPEATS, clock)
        checks.append(LatencyCheck(candidate.composition, candidate.latency_ns / 1e6, 1000 * found.median))
    return tuple(checks)


def _random(signal: Signal, batch_size: int, device: torch.device) -> torch.Tensor:
    return torch.randn(signal.shape(batch_size), generator=torch.Generator().manual_seed(0)).to(device)


def _classifier(num_features: int, num_classes: int) -> nn.Module:
    layer = skip_init(nn.Linear, num_features, num_classes)  # drawn from no global generator
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _call(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        module(x)
        synchronise(x.device)

    return call


def _above(seconds: float, floor: int) -> int:
    return max(0, round(1e9 * seconds) - floor)
