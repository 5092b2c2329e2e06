"""What every block, seam and ending of a zoo costs under the settings of a search, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

from reassembly.assembly import Candidate, CostTable, cost_table, partition_blocks, single_network_candidates
from reassembly.latency import LatencyTable
from reassembly.network import boundary, cut_costs, ending_costs, seam_costs
from reassembly.partition import Partition, even_split
from reassembly.settings import SearchSettings
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Costs, Signal
from zoo.description import ChainDescription


@dataclass(frozen=True)
class Costing:
    """Costs of blocks by their references.

    Attributes:
        settings: Of the search.
        descriptions: Of the networks.
        num_classes: Of the head.
        latency: What the parts take on the present device, where the budget limits that.
    """

    settings: SearchSettings
    descriptions: Mapping[str, ChainDescription]
    num_classes: int
    latency: LatencyTable | None = None

    def table(self, partition: Partition) -> CostTable:
        """The table of a partition."""
        spec = self.settings.adapter.spec()
        return cost_table(
            partition_blocks(dict(zip(partition.networks, partition.cuts, strict=True))),
            self._block,
            lambda before, block: self._seam(before, spec, block),
            self._ending,
            self._cut,
        )

    def seams(self, partition: Partition) -> Iterator[tuple[Signal, Signal, AdapterSpec]]:
        """The signals on both sides of every adapter that a composition may have, and the adapter."""
        rows = partition_blocks(dict(zip(partition.networks, partition.cuts, strict=True)))
        seam, own = self.settings.adapter.spec(), self.settings.adapter.own_spec()
        for row, following in pairwise(rows):
            for before, block in product(row, following):
                sides = boundary(before, block, self.descriptions)
                if not block.continues(before):
                    yield *sides, seam
                elif self.settings.tuning_mode == "freeze":
                    yield *sides, own

    def others(self, table: CostTable) -> Iterator[Candidate]:
        """Networks truncated inside a block; where adapters alone are tuned, networks with own adapters too."""
        spec, is_frozen = self.settings.adapter.own_spec(), self.settings.tuning_mode == "freeze"
        own = (lambda before, block: self._seam(before, spec, block)) if is_frozen else None
        return single_network_candidates(table, self._block, self._ending, own, self._cut)

    def whole(self, description: ChainDescription) -> Candidate:
        """A network that no partition has cut, in blocks of equal length."""
        end = len(description) - 1
        cuts = even_split(end, min(self.settings.partition.num_blocks, end))
        blocks = tuple(BlockSpec(description.name, pair) for pair in pairwise(cuts))
        costs = description.block_costs(0, end) + self._ending(blocks[-1])
        costs = sum(map(self._cut, blocks[:-1]), costs)
        return Candidate(blocks, "network", costs.num_params, costs.macs, costs.latency_ns)

    def head_inputs(self, candidate: Candidate) -> str:
        """What the head of a candidate reads; ``auto`` only where a head on all cuts, too, fits the budget."""
        inner, asked = candidate.blocks[:-1], self.settings.head.inputs
        if asked != "auto" or not inner:
            return asked if inner else "last"
        wide = sum(map(self._cut_of_any, inner), Costs(*candidate.costs))
        fits = self.settings.budget.admits(wide.num_params, wide.macs, wide.latency_ns)
        return "auto" if fits else "last"

    def _block(self, block: BlockSpec) -> Costs:
        time = self.latency.block(block) if self.latency else 0
        return self.descriptions[block.network].block_costs(*block.nodes) + Costs(latency_ns=time)

    def _seam(self, before: BlockSpec, spec: AdapterSpec, block: BlockSpec) -> Costs:
        time = self.latency.seam(*boundary(before, block, self.descriptions), spec) if self.latency else 0
        return seam_costs(before, spec, block, self.descriptions) + Costs(latency_ns=time)

    def _ending(self, block: BlockSpec) -> Costs:
        time = self.latency.ending(block) if self.latency else 0
        costs = ending_costs(block, self.descriptions[block.network], self.num_classes)
        return costs + Costs(latency_ns=time)

    def _cut(self, block: BlockSpec) -> Costs:
        """What candidates are charged with for a cut that the head reads; under ``auto`` those that afford it pay."""
        return self._cut_of_any(block) if self.settings.head.inputs == "all_cuts" else Costs()

    def _cut_of_any(self, block: BlockSpec) -> Costs:
        time = self.latency.pooled(block) if self.latency else 0
        return cut_costs(block, self.descriptions[block.network], self.num_classes) + Costs(latency_ns=time)
