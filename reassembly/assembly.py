"""Which compositions exist, what each costs, and which of them fit a budget: exact integers, no network is built.

A composition takes one block from every stage 1..m, m <= K. As every adapter resizes to the next block's native input,
its cost is ``block costs + adapter costs + neck and head``, to the last digit what the assembled network counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product

import numpy as np

from reassembly.enumeration import PathCosts
from reassembly.programme import Programme, best_paths
from reassembly.settings import UNITS, Budget, in_cost, in_limit, unit_of
from zoo.blueprint import BlockSpec, composition
from zoo.chain import Costs


@dataclass(frozen=True)
class Candidate:
    """A composition and its exact costs, head included.

    Attributes:
        blocks: One block per stage 1..m, in order; of a truncated network the last one may end inside its stage.
        kind: ``network`` (a network up to its end), ``truncated`` (its first nodes), or ``assembly``.
        latency_ns: Predicted from the times of its parts; 0 where these were not measured.
        is_adapted: It is of one network and has an adapter, the identity at first, between each two of its blocks.
    """

    blocks: tuple[BlockSpec, ...]
    kind: str
    num_params: int
    macs: int
    latency_ns: int = 0
    is_adapted: bool = False

    @property
    def costs(self) -> tuple[int, int, int]:
        """Parameters, MACs, predicted nanoseconds."""
        return self.num_params, self.macs, self.latency_ns

    @property
    def pieces(self) -> tuple[BlockSpec, ...]:
        """What the adapters stand between."""
        return self.blocks if self.is_adapted else joined(self.blocks)

    @property
    def composition(self) -> str:
        """For the reader: the pieces, as ``zoo.blueprint.composition`` gives them."""
        return composition(self.pieces)


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
        costs: Parameters, MACs and, where they were measured, nanoseconds (C = 2 or 3), int64.
    """

    blocks: tuple[tuple[BlockSpec, ...], ...]
    costs: PathCosts

    def candidate(self, path: Sequence[int], costs: Sequence[int]) -> Candidate:
        """The composition that takes network ``path[k]`` in stage k."""
        blocks = tuple(self.blocks[stage][item] for stage, item in enumerate(path))
        whole = "network" if len(path) == len(self.blocks) else "truncated"
        kind = whole if len(set(path)) == 1 else "assembly"
        return Candidate(blocks, kind, *map(int, costs))


def cost_table(
    blocks: Sequence[Sequence[BlockSpec]],
    block_costs: Callable[[BlockSpec], Costs],
    adapter_costs: Callable[[BlockSpec, BlockSpec], Costs],
    ending_costs: Callable[[BlockSpec], Costs],
    cut_costs: Callable[[BlockSpec], Costs] = lambda block: Costs(),
) -> CostTable:
    """Fills the tables, once per block and pair of blocks.

    Args:
        blocks: K rows of N references, one row per stage, networks in the same order in each.
        block_costs: Of one block at its native input.
        adapter_costs: From the end of one block to the start of another network's block of the next stage; consecutive
            blocks of one network need none.
        ending_costs: Neck and head of a composition that ends with this block.
        cut_costs: What a head that reads all cuts takes for one behind this block, where something follows.
    """
    rows = tuple(tuple(row) for row in blocks)
    shape = (len(UNITS), len(rows), len(rows[0]))
    unary, tail = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    pairwise = np.zeros((len(UNITS), shape[1] - 1, shape[2], shape[2]), np.int64)
    for stage, row in enumerate(rows):
        for i, block in enumerate(row):
            unary[:, stage, i] = _integers(block_costs(block))
            tail[:, stage, i] = _integers(ending_costs(block))
            for j, following in enumerate(rows[stage + 1] if stage + 1 < len(rows) else ()):
                assert i != j or following.continues(block), "stages leave a gap"
                seam = adapter_costs(block, following) if i != j else Costs()
                pairwise[:, stage, i, j] = _integers(seam + cut_costs(block))
    num_costs = 3 if unary[2].any() else 2
    return CostTable(rows, PathCosts(*(part[:num_costs] for part in (unary, pairwise, tail))))


def single_network_candidates(
    table: CostTable,
    block_costs: Callable[[BlockSpec], Costs],
    ending_costs: Callable[[BlockSpec], Costs],
    own_adapter_costs: Callable[[BlockSpec, BlockSpec], Costs] | None = None,
    cut_costs: Callable[[BlockSpec], Costs] = lambda block: Costs(),
) -> Iterator[Candidate]:
    """The candidates of one network that the table lacks: those truncated inside a block, and those with own adapters.

    Args:
        table: Whole networks and those truncated at the end of a block are paths of it.
        block_costs: Of any run of nodes of a network.
        ending_costs: As in ``cost_table``.
        own_adapter_costs: Of an adapter between two blocks that follow each other in their network, where whole and
            truncated networks are to have these, too.
        cut_costs: As in ``cost_table``.
    """
    for column in zip(*table.blocks, strict=True):
        for stage, block in enumerate(column):
            start, stop = block.nodes
            for end in range(start + 1, stop + 1):
                blocks = (*column[:stage], BlockSpec(block.network, (start, end)))
                is_border, is_whole = end == stop, end == column[-1].nodes[1]
                kind = "network" if is_whole else "truncated"
                costs = block_costs(BlockSpec(block.network, (0, end))) + ending_costs(blocks[-1])
                costs = sum(map(cut_costs, blocks[:-1]), costs)
                if not is_border:
                    yield Candidate(blocks, kind, *_integers(costs))
                if own_adapter_costs is not None and stage:
                    costs = sum((own_adapter_costs(*pair) for pair in pairwise(blocks)), costs)
                    yield Candidate(blocks, kind, *_integers(costs), is_adapted=True)


def _integers(costs: Costs) -> tuple[int, int, int]:
    return costs.num_params, costs.macs, costs.latency_ns


def partition_blocks(cuts: Mapping[str, Sequence[int]]) -> tuple[tuple[BlockSpec, ...], ...]:
    """The K x N blocks of a partition given as cuts ``(0, c1, ..., L - 1)`` of every network."""
    assert len({len(positions) for positions in cuts.values()}) == 1, "every network is cut into K blocks"
    by_network = [[BlockSpec(name, pair) for pair in pairwise(positions)] for name, positions in cuts.items()]
    return tuple(zip(*by_network, strict=True))


def infeasible(table: CostTable, budget: Budget, clash: Sequence[str] = (), others: Sequence[Candidate] = ()) -> str:
    """One line: the limits that bind and the nearest composition that would fit, exact.

    Lifting one limit may be enough (all such ways are named). Otherwise the fewest limits on different costs that are
    enough are named, of several such sets that whose relative excess is least.

    Args:
        table: Of blocks and costs.
        budget: That nothing fits.
        clash: Limits that cannot be kept together.
        others: Candidates beside the table's.
    """

    def nearest(names: Sequence[str]) -> _Fix | None:
        return _nearest(table, budget, names, others)

    single = [fix for name in budget.limits() if (fix := nearest([name]))]
    by_unit = [names for unit in UNITS if (names := [name for name in budget.limits() if name.endswith(unit)])]
    fixes, count = single, 2
    while not fixes:
        sets = (names for units in combinations(by_unit, count) for names in product(*units))
        fixes, count = sorted(fix for names in sets if (fix := nearest(names)))[:1], count + 1
    ways = " or ".join(" ".join(f"budget.{name}={value}" for name, value in fix.limits.items()) for fix in fixes)
    best, told = fixes[0].candidate, f"{' and '.join(clash)} clash; " if len(clash) > 1 else ""
    timed = f" and {in_limit(2, best.latency_ns)} ms" if best.latency_ns else ""
    return (
        f"no composition fits {budget}: {told}the nearest is {best.composition} with {best.num_params:,} params "
        f"and {best.macs:,} macs{timed}; type {ways}"
    )


@dataclass(frozen=True, order=True)
class _Fix:
    excess: float
    candidate: Candidate = field(compare=False)
    limits: dict[str, int | float] = field(compare=False)


def _nearest(table: CostTable, budget: Budget, names: Sequence[str], others: Sequence[Candidate]) -> _Fix | None:
    """The composition nearest to the named limits (at most one per cost) among those that fit all other limits."""
    limits = {name: in_cost(name, value) for name, value in budget.limits().items()}
    rest, num_costs = budget.without(names), len(table.costs.unary)
    weights, at_limits = [0.0] * num_costs, 0.0
    for name in names:
        sign = 1 if name.startswith("max") else -1
        scale = 1 if len(names) == 1 else max(limits[name], 1)
        weights[unit_of(name)] = sign / scale
        at_limits += sign * limits[name] / scale
    low, high = (np.array(side[:num_costs], np.int64) for side in rest.bounds())
    found = best_paths(Programme(table.costs.combined([-weight for weight in weights]), table.costs, low, high))
    candidates = [table.candidate(solution.path, solution.costs) for solution in found]
    candidates += [other for other in others if rest.admits(*other.costs)]

    def excess(candidate: Candidate) -> float:
        return sum(weight * cost for weight, cost in zip(weights, candidate.costs, strict=False)) - at_limits

    if not candidates:
        return None
    nearest = min(candidates, key=excess)
    values = {name: in_limit(unit_of(name), nearest.costs[unit_of(name)]) for name in names}
    return _Fix(excess(nearest), nearest, values)


def joined(blocks: Sequence[BlockSpec]) -> tuple[BlockSpec, ...]:
    """The blocks with those that continue each other in one network made one: nothing is stitched there."""
    result: list[BlockSpec] = []
    for block in blocks:
        if result and block.continues(result[-1]):
            block = BlockSpec(block.network, (result.pop().nodes[0], block.nodes[1]))
        result.append(block)
    return tuple(result)


def split(block: BlockSpec, cuts: Mapping[str, Sequence[int]]) -> list[BlockSpec]:
    """A block as the blocks that the cuts of its network make of it; whole where these are not given."""
    start, stop = block.nodes
    inside = [cut for cut in cuts.get(block.network, ()) if start < cut < stop]
    return [BlockSpec(block.network, pair) for pair in pairwise([start, *inside, stop])]
