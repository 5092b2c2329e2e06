"""Which compositions exist, what each costs, and which of them fit a budget: exact integers, no network is built.

A composition takes one block from every stage 1..m, m <= K. As every adapter resizes to the next block's native input,
its cost is ``block costs + adapter costs + neck and head``, to the last digit what the assembled network counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

import numpy as np

from reassembly.enumeration import PathCosts
from reassembly.programme import Programme, best_paths
from reassembly.settings import Budget
from zoo.blueprint import BlockSpec, composition
from zoo.chain import Costs


@dataclass(frozen=True)
class Candidate:
    """A composition and its exact costs, head included.

    Attributes:
        blocks: One block per stage 1..m, in order.
        kind: ``network`` (all K blocks of one network), ``truncated`` (its first m < K), or ``assembly``.
    """

    blocks: tuple[BlockSpec, ...]
    kind: str
    num_params: int
    macs: int

    @property
    def composition(self) -> str:
        """For the reader, as ``zoo.blueprint.composition`` gives it."""
        return composition(self.blocks)


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate and its score by every proxy, averaged over ``num_draws`` draws of its adapters.

    Attributes:
        predicted: What the additive prediction says of the score by the proxy, higher is better; None where it cannot.
    """

    candidate: Candidate
    scores: Mapping[str, float]
    num_draws: int = 1
    predicted: float | None = None


@dataclass(frozen=True)
class CostTable:
    """The costs of every block, adapter and ending of a partitioned zoo.

    Attributes:
        blocks: K rows of N references: ``blocks[k][i]`` is network i's block of stage k.
        costs: Parameters and MACs (C = 2), int64.
    """

    blocks: tuple[tuple[BlockSpec, ...], ...]
    costs: PathCosts

    def candidate(self, path: Sequence[int], costs: Sequence[int]) -> Candidate:
        """The composition that takes network ``path[k]`` in stage k."""
        blocks = tuple(self.blocks[stage][item] for stage, item in enumerate(path))
        whole = "network" if len(path) == len(self.blocks) else "truncated"
        kind = whole if len(set(path)) == 1 else "assembly"
        return Candidate(blocks, kind, int(costs[0]), int(costs[1]))


def cost_table(
    blocks: Sequence[Sequence[BlockSpec]],
    block_costs: Callable[[BlockSpec], Costs],
    adapter_costs: Callable[[BlockSpec, BlockSpec], Costs],
    ending_costs: Callable[[BlockSpec], Costs],
) -> CostTable:
    """Fills the tables, once per block and pair of blocks.

    Args:
        blocks: K rows of N references, one row per stage, networks in the same order in each.
        block_costs: Of one block at its native input.
        adapter_costs: From the end of one block to the start of another network's block of the next stage; consecutive
            blocks of one network need none.
        ending_costs: Neck and head of a composition that ends with this block.
    """
    rows = tuple(tuple(row) for row in blocks)
    shape = (2, len(rows), len(rows[0]))
    unary, tail = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    pairwise = np.zeros((2, shape[1] - 1, shape[2], shape[2]), np.int64)
    for stage, row in enumerate(rows):
        for i, block in enumerate(row):
            unary[:, stage, i] = _integers(block_costs(block))
            tail[:, stage, i] = _integers(ending_costs(block))
            for j, following in enumerate(rows[stage + 1] if stage + 1 < len(rows) else ()):
                if i != j:
                    pairwise[:, stage, i, j] = _integers(adapter_costs(block, following))
                else:
                    assert following.continues(block), "stages leave a gap"
    return CostTable(rows, PathCosts(unary, pairwise, tail))


def _integers(costs: Costs) -> tuple[int, int]:
    return costs.num_params, costs.macs


def partition_blocks(cuts: Mapping[str, Sequence[int]]) -> tuple[tuple[BlockSpec, ...], ...]:
    """The K x N blocks of a partition given as cuts ``(0, c1, ..., L - 1)`` of every network."""
    assert len({len(positions) for positions in cuts.values()}) == 1, "every network is cut into K blocks"
    by_network = [[BlockSpec(name, pair) for pair in pairwise(positions)] for name, positions in cuts.items()]
    return tuple(zip(*by_network, strict=True))


def infeasible(table: CostTable, budget: Budget, clash: Sequence[str] = ()) -> str:
    """One line: the limits that bind and the nearest composition that would fit, exact.

    Lifting one limit may be enough (all such ways are named). Otherwise every composition breaks exactly one limit of
    each unit, and the pair of limits whose relative excess is least is named.
    """
    single = [fix for name in budget.limits() if (fix := _nearest(table, budget, [name]))]
    by_unit = [[name for name in budget.limits() if name.endswith(unit)] for unit in ("params", "macs")]
    fixes = single or [min(fix for names in product(*by_unit) if (fix := _nearest(table, budget, names)))]
    ways = " or ".join(" ".join(f"budget.{name}={value}" for name, value in fix.limits.items()) for fix in fixes)
    nearest, told = fixes[0].candidate, f"{' and '.join(clash)} clash; " if len(clash) > 1 else ""
    return (
        f"no composition fits {budget}: {told}the nearest is {nearest.composition} with {nearest.num_params:,} params "
        f"and {nearest.macs:,} macs; type {ways}"
    )


@dataclass(frozen=True, order=True)
class _Fix:
    excess: float
    candidate: Candidate = field(compare=False)
    limits: dict[str, int] = field(compare=False)


def _nearest(table: CostTable, budget: Budget, names: Sequence[str]) -> _Fix | None:
    """The composition nearest to the named limits (at most one per unit) among those that fit all other limits."""
    limits = budget.limits()
    weights, at_limits = [0.0, 0.0], 0.0
    for name in names:
        sign = 1 if name.startswith("max") else -1
        scale = 1 if len(names) == 1 else max(limits[name], 1)
        weights[name.endswith("macs")] = sign / scale
        at_limits += sign * limits[name] / scale
    low, high = (np.array(side, np.int64) for side in budget.without(names).bounds())
    found = best_paths(Programme(table.costs.combined([-weight for weight in weights]), table.costs, low, high))
    if not found:
        return None
    candidate = table.candidate(found[0].path, found[0].costs)
    values = {name: candidate.num_params if name.endswith("params") else candidate.macs for name in names}
    return _Fix(-found[0].value - at_limits, candidate, values)


def joined(blocks: Sequence[BlockSpec]) -> tuple[BlockSpec, ...]:
    """The blocks with those that continue each other in one network made one: nothing is stitched there."""
    result: list[BlockSpec] = []
    for block in blocks:
        if result and block.continues(result[-1]):
            block = BlockSpec(block.network, (result.pop().nodes[0], block.nodes[1]))
        result.append(block)
    return tuple(result)
