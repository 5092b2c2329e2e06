"""The blocks that candidates are made of, within bounded memory: taken when first asked for, dropped when too many."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from itertools import chain as concatenated
from typing import Any

import torch
from torch import nn

from reassembly.network import MeanPool
from zoo.blueprint import BlockSpec
from zoo.chain import Chain, Signal
from zoo.chain.batches import run_in_batches

MAX_BYTES = 4 * 2**30
"""Of the blocks that are kept in memory; likewise of the home features of closed-form adapters."""


class ByteLimitedCache:
    """Values by key; beyond ``max_bytes`` the largest are dropped first.

    Candidates come back to every block in turn, so that the one used longest ago is the one needed next: dropping by
    size, only the largest few are loaded over and over.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._values: dict[Hashable, tuple[int, Any]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __getitem__(self, key: Hashable) -> Any:
        return self._values[key][1]

    def put(self, key: Hashable, value: Any, num_bytes: int) -> None:
        """Keeps a value for now."""
        self._values[key] = (num_bytes, value)
        while sum(size for size, _ in self._values.values()) > self.max_bytes:
            del self._values[max(self._values, key=lambda key: self._values[key][0])]


class BlockCache:
    """Blocks by their specification, each with its signals and the neck behind it.

    A visit to a network takes all blocks that are wanted of it; a block outlives the network that it was taken from.
    Blocks with convolutions are copies with their channels last in memory, which run 1.2 to 1.8 times as fast on a CPU
    (``python -m benchmarks.assembly``); their outputs differ from the network's own by rounding, about 1e-6.

    Args:
        chains: Of all networks.
        max_bytes: Of the blocks that are kept.
    """

    def __init__(self, chains: Mapping[str, Chain], max_bytes: int = MAX_BYTES) -> None:
        self.chains = chains
        self.wanted: dict[str, set[BlockSpec]] = defaultdict(set)
        self._modules = ByteLimitedCache(max_bytes)
        self._signals: dict[BlockSpec, tuple[Signal, Signal]] = {}

    def want(self, specs: Iterable[BlockSpec]) -> None:
        """Says which blocks will be asked for, so that one visit to their network takes them all."""
        for spec in specs:
            self.wanted[spec.network].add(spec)

    def signals(self, spec: BlockSpec) -> tuple[Signal, Signal]:
        """What enters and what leaves a block."""
        if spec not in self._signals:
            self._visit(spec)
        return self._signals[spec]

    def block(self, spec: BlockSpec) -> nn.Module:
        """The block; one without convolutions shares the parameters of its network where that is still in memory."""
        return self._module(spec)[0]

    def neck(self, spec: BlockSpec) -> nn.Module:
        """From the block's output to pooled features: its network's own neck at its network's end, else the mean."""
        return self._module(spec)[1]

    def _module(self, spec: BlockSpec) -> tuple[nn.Module, nn.Module]:
        return self._modules[spec] if spec in self._modules else self._visit(spec)

    def _visit(self, spec: BlockSpec) -> tuple[nn.Module, nn.Module]:
        chain = self.chains[spec.network]
        self.wanted[spec.network].add(spec)
        for other in sorted(self.wanted[spec.network] - {spec}, key=lambda other: other.nodes):
            if other not in self._modules:
                self._take(chain, other)
        return self._take(chain, spec)

    def _take(self, chain: Chain, spec: BlockSpec) -> tuple[nn.Module, nn.Module]:
        start, stop = spec.nodes
        self._signals[spec] = chain.signal(start), chain.signal(stop)
        block = _with_channels_last(chain.block(start, stop), chain.signal(start))
        pair = block, chain.neck() if stop == len(chain) - 1 else MeanPool(chain.signal(stop))
        tensors = concatenated.from_iterable((*module.parameters(), *module.buffers()) for module in pair)
        self._modules.put(spec, pair, sum(tensor.nbytes for tensor in tensors))
        return pair


def _with_channels_last(block: nn.Module, signal: Signal) -> nn.Module:
    """A copy of a block with its kernels' channels last; the block itself where it has none or cannot run so."""
    first = next((parameter for parameter in block.parameters() if parameter.ndim == 4), None)
    if first is None:
        return block
    copied = copy.deepcopy(block).to(memory_format=torch.channels_last)
    try:
        run_in_batches(copied, first.new_zeros(signal.shape(2)), batch_size=2)
    except RuntimeError:  # what it does to a feature map (`view`) wants one that is contiguous
        return block
    return copied
