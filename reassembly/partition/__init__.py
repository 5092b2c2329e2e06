"""Partition of every network into K blocks, grouped around K centres by functional similarity.

Deep Model Reassembly (Yang et al., NeurIPS 2022, arXiv 2210.17409, section 3.1): maximise
J = sum_i sum_k S(B_i^k, centre of its set) over all splits and centres, S(B, B') = s(in_B, in_B') + s(out_B, out_B').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from reassembly.partition.ascent import multi_start
from reassembly.partition.bound import RELATIVE_TOLERANCE, certify
from reassembly.partition.clock import Clock
from reassembly.partition.nearest import NearestProblem
from reassembly.partition.nearest import solve as solve_nearest
from reassembly.partition.problem import PartitionProblem, longest_block
from reassembly.partition.published import SwapSearch, swap
from reassembly.settings import PartitionSettings
from zoo.errors import UserError

__all__ = ["Partition", "PartitionSettings", "find_partition", "longest_block"]


@dataclass(frozen=True)
class Partition:
    """The cut of every network into K blocks, their equivalence sets and the sets' centres.

    Attributes:
        networks: Names of the N networks.
        cuts: Per network K + 1 node indices of its chain, from 0 (the first block brings its stem) to L - 1 (the head
            is left out): block k is ``chain.block(cuts[k], cuts[k + 1])``.
        sets: Per network the equivalence set of each of its blocks.
        centres: Per set the (network, block) that is its centre.
        block_similarities: Per network S(block, centre of its set) of each of its blocks.
        objective: J, the sum of all ``block_similarities``.
        upper_bound: No partition of this mode has a larger J. (Mode ``even``: for these splits.)
        proven: The gap is within the tolerance of the proof.
        settings: What was asked for.
    """

    networks: tuple[str, ...]
    cuts: tuple[tuple[int, ...], ...]
    sets: tuple[tuple[int, ...], ...]
    centres: tuple[tuple[int, int], ...]
    block_similarities: tuple[tuple[float, ...], ...]
    objective: float
    upper_bound: float
    proven: bool
    settings: PartitionSettings

    @property
    def num_blocks(self) -> int:
        return len(self.centres)

    @property
    def gap(self) -> float:
        """What the objective may fall short of the optimum, as a share of the objective's bound."""
        return (self.upper_bound - self.objective) / max(abs(self.upper_bound), 1e-12)

    def blocks_of_set(self, index: int) -> tuple[tuple[int, int], ...]:
        """The (network, block) pairs of an equivalence set: one per network, but in mode ``nearest``."""
        return tuple((i, b) for i, blocks in enumerate(self.sets) for b, k in enumerate(blocks) if k == index)


def find_partition(
    similarity: Tensor | np.ndarray,
    features: Sequence[Sequence[int]],
    networks: Sequence[str],
    settings: PartitionSettings | None = None,
    *,
    seed: int = 0,
) -> Partition:
    """Partitions all networks jointly and certifies how far the result is from the optimum.

    Args:
        similarity: ``(M, M)`` representation similarity of nodes; row = block's node, column = centre's.
        features: Per network the L_i + 1 rows of ``similarity`` that belong to its stem and its L_i body nodes.
        networks: Their names.
        settings: Defaults if not given.
        seed: Of the random starts.

    Returns:
        The same partition for the same arguments: limits count steps, not seconds, unless there is a ``time_limit``.

    Raises:
        UserError: A network whose body has fewer than K nodes, or a similarity that is not finite.
    """
    settings = settings or PartitionSettings()
    similarity = np.asarray(similarity, dtype=np.float64)
    _check(similarity, features, networks, settings)
    splits = [even_split(len(indices) - 1, settings.num_blocks) for indices in features]
    clock = Clock(settings.time_limit)
    if settings.mode == "nearest" or settings.method == "published":
        return _by_splits(similarity, features, networks, settings, splits, seed, clock)
    permuted = settings.mode == "permutation"
    problem = PartitionProblem(similarity, features, settings.num_blocks, settings.size_slack, permuted)
    even_centres, even_paths = _best_centres(problem, splits)
    if settings.mode == "even":
        objective = sum(float(problem.sets[k].similarity[b, even_centres[k]]) for path in even_paths for k, b in path)
        return _partition(problem, networks, settings, even_centres, even_paths, objective, True)
    generator = torch.Generator().manual_seed(seed)
    objective, centres = multi_start(problem, even_centres, settings.num_starts, generator, clock)
    centres, upper_bound, proven = certify(problem, centres, settings.max_bound_steps, clock)
    return _partition(
        problem, networks, settings, centres, problem.best_paths(problem.gains(centres)), upper_bound, proven
    )


def _by_splits(similarity, features, networks, settings: PartitionSettings, even, seed: int, clock: Clock) -> Partition:
    """Mode ``nearest``, and what the published method finds; the bound is always the certified method's."""
    size, nearest = (settings.num_blocks, settings.size_slack), settings.mode == "nearest"
    generator = torch.Generator().manual_seed(seed)
    if nearest:
        problem = NearestProblem(similarity, features, *size)
        places = [
            [problem.first[i] + problem.arcs[i].index(arc) for arc in pairwise(split)] for i, split in enumerate(even)
        ]
        first = [places[k % len(places)][k] for k in range(settings.num_blocks)]
        centres, bound = solve_nearest(problem, first, settings.num_starts, settings.max_bound_steps, generator, clock)
        splits = problem.splits(centres)
        middles = [
            (int(problem.network[c]), problem.arcs[problem.network[c]][c - problem.first[problem.network[c]]])
            for c in centres
        ]
        chosen = [(i, list(pairwise(splits[i])).index(arc)) for i, arc in middles]
    else:
        staged = PartitionProblem(similarity, features, *size, False)
        best, _ = _best_centres(staged, even)
        _, bound, _ = certify(staged, best, settings.max_bound_steps, clock)
    if settings.method == "published":
        search = SwapSearch(similarity, features, *size, seed, nearest)
        splits, chosen = swap(search, settings.num_starts, clock)
    value = {
        (i, b): [
            similarity[features[i][s], features[n][splits[n][k]]]
            + similarity[features[i][e], features[n][splits[n][k + 1]]]
            for n, k in chosen
        ]
        for i, split in enumerate(splits)
        for b, (s, e) in enumerate(pairwise(split))
    }
    sets = [
        [
            chosen.index((i, b)) if (i, b) in chosen else int(np.argmax(value[i, b])) if nearest else b
            for b in range(size[0])
        ]
        for i in range(len(splits))
    ]
    similarities = [[float(value[i, b][k]) for b, k in enumerate(row)] for i, row in enumerate(sets)]
    objective = sum(map(sum, similarities))
    return Partition(
        networks=tuple(networks),
        cuts=tuple((0, *(end + 1 for end in split[1:])) for split in splits),
        sets=tuple(map(tuple, sets)),
        centres=tuple(chosen),
        block_similarities=tuple(map(tuple, similarities)),
        objective=objective,
        upper_bound=max(bound, objective),
        proven=bound <= objective + RELATIVE_TOLERANCE * max(1.0, abs(objective)),
        settings=settings,
    )


def even_split(num_nodes: int, num_blocks: int) -> tuple[int, ...]:
    """K + 1 positions 0..L of blocks whose lengths differ by at most one."""
    return (*((k * num_nodes + num_blocks // 2) // num_blocks for k in range(num_blocks)), num_nodes)


def _check(similarity, features, networks, settings: PartitionSettings) -> None:
    assert len(features) == len(networks) > 0, "one name and one list of features per network"
    assert similarity.shape == (len(similarity),) * 2, "similarity is (M, M)"
    for name, indices in zip(networks, features, strict=True):
        length = len(indices) - 1
        if length < settings.num_blocks:
            fewer = f"type partition.num_blocks={length}, or " if length else ""
            raise UserError(
                f"network {name!r} has {length} nodes between stem and head, too few for "
                f"partition.num_blocks={settings.num_blocks}: {fewer}leave it out of the zoo (~zoo.networks.{name})"
            )
    if not np.isfinite(similarity).all():
        raise UserError("the similarity matrix holds NaN or infinity: take the network it comes from out of the zoo")


def _best_centres(problem: PartitionProblem, splits) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Best centre of every stage for given splits, and the splits as (set, block) paths."""
    centres, paths = [], [[] for _ in splits]
    for k, arcs in enumerate(problem.sets):
        index = {
            block: i
            for i, block in enumerate(zip(*map(np.ndarray.tolist, (arcs.network, arcs.start, arcs.end)), strict=True))
        }
        blocks = [index[network, split[k], split[k + 1]] for network, split in enumerate(splits)]
        centres.append(blocks[int(np.argmax(arcs.similarity[np.ix_(blocks, blocks)].sum(axis=0)))])
        for path, block in zip(paths, blocks, strict=True):
            path.append((k, block))
    return centres, paths


def _partition(problem, networks, settings, centres, paths, upper_bound, proven) -> Partition:
    cuts, sets, similarities, placed = [], [], [], {}
    for network, path in enumerate(paths):
        arcs = [problem.sets[k] for k, _ in path]
        ends = [int(a.end[block]) for a, (_, block) in zip(arcs, path, strict=True)]
        cuts.append((0, *(end + 1 for end in ends)))  # body node p of the partition is node p of the chain
        sets.append(tuple(k for k, _ in path))
        similarities.append(tuple(float(a.similarity[b, centres[k]]) for a, (k, b) in zip(arcs, path, strict=True)))
        placed.update({(k, block): (network, index) for index, (k, block) in enumerate(path)})
    objective = sum(map(sum, similarities))
    return Partition(
        networks=tuple(networks),
        cuts=tuple(cuts),
        sets=tuple(sets),
        centres=tuple(placed[k, centre] for k, centre in enumerate(centres)),
        block_similarities=tuple(similarities),
        objective=objective,
        upper_bound=max(upper_bound, objective),
        proven=proven,
        settings=settings,
    )
