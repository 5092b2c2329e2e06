"""What blocks receive in the networks they come from, on the probe images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from reassembly.block_cache import BlockCache, ByteLimitedCache
from reassembly.matched_adapter import InputStatistics, InputStatisticsAccumulator
from zoo.blueprint import BlockSpec
from zoo.chain.modes import eval_mode
from zoo.stitching.adapters import Kind


class HomeFeatures:
    """What comes into blocks at home: its statistics and the features themselves, computed when first asked for.

    Args:
        blocks: Of the candidates; one pass through a network serves all that are wanted of it.
        images_for: Name of a network -> the probe images as it takes them.
        kind: Of the adapters.
        batch_size: Images per forward pass.
    """

    def __init__(self, blocks: BlockCache, images_for: Callable[[str], Tensor], kind: Kind, batch_size: int) -> None:
        self.blocks, self.images_for, self.kind, self.batch_size = blocks, images_for, kind, batch_size
        self._statistics: dict[BlockSpec, InputStatistics] = {}
        self._features = ByteLimitedCache()

    @torch.no_grad()
    def statistics(self, block: BlockSpec) -> InputStatistics:
        """Statistics of what comes into a block; only these few numbers are kept."""
        if block not in self._statistics:
            chain = self.blocks.chains[block.network]
            wanted = [b for b in {*self.blocks.wanted[block.network], block} if b.nodes[0] > 0]
            starts = sorted({b.nodes[0] for b in wanted})
            found = {start: InputStatisticsAccumulator(chain.signal(start), self.kind) for start in starts}
            pieces = [chain.block(*nodes) for nodes in zip([0, *starts], starts, strict=False)]
            with eval_mode(chain.network):
                for batch in self.images_for(block.network).split(self.batch_size):
                    for start, piece in zip(starts, pieces, strict=True):
                        batch = piece(batch)
                        found[start].add(batch)
            self._statistics |= {b: found[b.nodes[0]].compute() for b in wanted}
        return self._statistics[block]

    @torch.no_grad()
    def features(self, block: BlockSpec) -> Tensor:
        """What comes into a block, n first; kept as far as memory goes."""
        if block in self._features:
            return self._features[block]
        before = self.blocks.chains[block.network].block(0, block.nodes[0])
        features = run(before, self.images_for(block.network), self.batch_size)
        self._features.put(block, features, features.nbytes)
        return features


def run(
    module: nn.Module, inputs: Tensor, batch_size: int, around_first: AbstractContextManager | None = None
) -> Tensor:
    """The module's outputs for all inputs, in evaluation mode and in batches.

    Args:
        module: Maps a batch to a batch.
        inputs: n first.
        batch_size: Images per forward pass.
        around_first: Entered around the first batch.
    """
    outputs = None
    with eval_mode(module):
        for start in range(0, len(inputs), batch_size):
            with (around_first or nullcontext()) if start == 0 else nullcontext():
                batch = module(inputs[start : start + batch_size])
            if outputs is None:
                outputs = batch.new_empty((len(inputs), *batch.shape[1:]))
            outputs[start : start + len(batch)] = batch
    return outputs
