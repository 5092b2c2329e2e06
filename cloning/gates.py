"""Gates: which units of a network can be switched off, and running it with some of them off.

A gate multiplies an activation, never a weight: filters of convolutions after their norm and activation (shortcuts are
not gated), hidden units of MLPs and mixers after their activation, heads of attention in front of its output
projection. It happens in forward hooks that exist only while the network runs; afterwards nothing is left on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GateSite:
    """One activation with gates on it.

    Attributes:
        node: Index of the chain's node it is in.
        path: Qualified name of the module whose output or input is gated.
        side: ``output``, or ``input`` for attention heads.
        axis: Axis of the units: 1 for convolutions, -1 for linear layers.
        num_gates: Filters, hidden units or heads.
        group_size: Consecutive channels that one gate multiplies; 1 except for heads.
    """

    node: int
    path: str
    side: Literal["output", "input"]
    axis: int
    num_gates: int
    group_size: int = 1

    def spread(self, gates: Tensor, num_axes: int) -> Tensor:
        """The gates (num_gates,) of this site in a shape that multiplies its activation of ``num_axes`` axes."""
        shape = [1] * num_axes
        shape[self.axis] = -1
        return gates.repeat_interleave(self.group_size).view(shape)


def num_gates(sites: Sequence[GateSite]) -> int:
    """Length of the vector that holds the gates of all sites, one site after the other."""
    return sum(site.num_gates for site in sites)


def split_gates(gates: Tensor, sites: Sequence[GateSite]) -> tuple[Tensor, ...]:
    """The parts (num_gates,) of each site out of the vector of all gates."""
    return gates.split([site.num_gates for site in sites])


def hard_gates(
    scores: Tensor,
    sites: Sequence[GateSite],
    keep: float,
    min_per_layer: int,
    shares: Tensor | None = None,
    *,
    above: float = -math.inf,
) -> Tensor:
    """Opens the best gates of the whole network, and in every layer at least its own best few.

    Args:
        scores: (n,); ties go to the gate that comes first.
        sites: The layers.
        keep: The share that stays open, at most.
        min_per_layer: The least number in a layer.
        shares: (n,) of all costs together, of each gate; all the same if not given.
        above: Gates with a score that is not above stay closed.

    Returns:
        (n,) float32 of 0 and 1.
    """
    promoted = scores.double().clone()
    for part in split_gates(promoted, sites):
        part[part.argsort(descending=True, stable=True)[:min_per_layer]] = math.inf
    order = promoted.argsort(descending=True, stable=True)
    num_kept = round(keep * len(scores))
    if shares is not None:
        num_kept = int((shares[order].double().cumsum(0) <= keep + 1e-6).sum())
    num_kept = min(num_kept, int((promoted > above).sum()))
    gates = torch.zeros(len(scores))
    gates[order[: max(num_kept, int(promoted.isinf().sum()))]] = 1
    return gates


@contextmanager
def gated(network: nn.Module, sites: Sequence[GateSite], gates: Tensor) -> Iterator[None]:
    """While inside, every forward of ``network`` multiplies its activations by ``gates`` (differentiable in them).

    Args:
        network: Holds the modules that the sites name.
        sites: Where to multiply.
        gates: (num_gates(sites),) in [0, 1].
    """
    handles = []
    try:
        for site, values in zip(sites, split_gates(gates, sites), strict=True):
            module = network.get_submodule(site.path)
            if site.side == "output":
                handles.append(module.register_forward_hook(_gate_output(site, values)))
            else:
                handles.append(module.register_forward_pre_hook(_gate_input(site, values)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gate_output(site: GateSite, gates: Tensor) -> Any:
    return lambda module, args, output: output * site.spread(gates.to(output.device), output.ndim)


def _gate_input(site: GateSite, gates: Tensor) -> Any:
    return lambda module, args: (args[0] * site.spread(gates.to(args[0].device), args[0].ndim), *args[1:])


def pack_gates(gates: Tensor) -> bytes:
    """Hard gates (n,) of 0 and 1 as ceil(n / 8) bytes."""
    return np.packbits(gates.detach().cpu().numpy() > 0.5).tobytes()


def unpack_gates(packed: bytes, n: int) -> Tensor:
    """The gates (n,) float32 that ``pack_gates`` packed."""
    assert len(packed) == -(-n // 8)
    return torch.from_numpy(np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=n).astype(np.float32))
