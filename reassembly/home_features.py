"""What blocks receive in the networks they come from, on the probe images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reassembly.block_cache import BlockCache, ByteLimitedCache
from reassembly.matched_adapter import InputStatistics, InputStatisticsAccumulator
from zoo.blueprint import BlockSpec
from zoo.chain.batches import Taps, map_batches, require_finite, run_in_batches
from zoo.stitching.adapters import Kind


class HomeFeatures:
    """What comes into blocks at home: its statistics and the features themselves, computed when first asked for.

    Args:
        blocks: Of the candidates; one pass through a network serves all that are wanted of it.
        images_for: Name of a network -> the probe images as it takes them.
        kind: Of the adapters.
        batch_size: Images per forward pass.
        precision: Of the passes, see ``run_in_batches``.
    """

    def __init__(
        self,
        blocks: BlockCache,
        images_for: Callable[[str], Tensor],
        kind: Kind,
        batch_size: int,
        precision: torch.dtype | None = None,
    ) -> None:
        self.blocks, self.images_for, self.kind, self.batch_size = blocks, images_for, kind, batch_size
        self.precision = precision
        self._statistics: dict[BlockSpec, InputStatistics] = {}
        self._features = ByteLimitedCache()

    def statistics(self, block: BlockSpec) -> InputStatistics:
        """Statistics of what comes into a block; only these few numbers are kept."""
        if block not in self._statistics:
            chain = self.blocks.chains[block.network]
            wanted = [b for b in {*self.blocks.wanted[block.network], block} if b.nodes[0] > 0]
            starts = sorted({b.nodes[0] for b in wanted})
            found = {start: InputStatisticsAccumulator(chain.signal(start), self.kind) for start in starts}
            pieces = [chain.block(*nodes) for nodes in zip([0, *starts], starts, strict=False)]
            taps = Taps(pieces, [found[start].add for start in starts])
            images = self.images_for(block.network)
            for _ in map_batches(taps, images, batch_size=self.batch_size, precision=self.precision):
                pass
            for start, accumulator in found.items():
                require_finite(accumulator.compute().deviation, chain, start)
            self._statistics |= {b: found[b.nodes[0]].compute() for b in wanted}
        return self._statistics[block]

    def features(self, block: BlockSpec) -> Tensor:
        """What comes into a block, n first; kept as far as memory goes."""
        if block in self._features:
            return self._features[block]
        chain, start = self.blocks.chains[block.network], block.nodes[0]
        images = self.images_for(block.network)
        features = run_in_batches(chain.block(0, start), images, batch_size=self.batch_size, precision=self.precision)
        require_finite(features, chain, start)
        self._features.put(block, features, features.nbytes)
        return features
