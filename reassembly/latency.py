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
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import skip_init

from reassembly.network import MeanPool
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain, Signal
from zoo.chain.modes import eval_mode
from zoo.stitching.adapters import Adapter, usable_kernel_size
from zoo.timing import NUM_WARM_UPS, synchronise, timed_calls


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
        return self.floor + (network.neck if at_end else network.mean_pools[last.nodes[1] - 1])

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


def relative_error(predicted_ns: int, measured_seconds: float) -> float:
    """How far a prediction lies above (or, negative, below) what was measured, as a share of it."""
    return predicted_ns / 1e9 / measured_seconds - 1


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
