"""Coordinate ascent over the centres, exact in one centre and all splits at once, from many starts."""

from __future__ import annotations

import numpy as np
import torch

from reassembly.partition.clock import Clock
from reassembly.partition.problem import PartitionProblem

TOLERANCE = 1e-9


def ascend(problem: PartitionProblem, centres: list[int]) -> tuple[float, list[int]]:
    """Improves one centre at a time, re-splitting every network, until no centre can be improved.

    Returns:
        J and the centres (block indices per set) of the fixpoint.
    """
    centres = list(centres)
    objective = problem.objective(centres)
    improved = True
    while improved:
        improved = False
        for k in range(problem.num_blocks):
            forward, backward = problem.potentials(problem.gains(centres))
            arcs = problem.sets[k]
            # Neither factor depends on the centre of set k: the sources' states lack k, the targets' states have it.
            weights = (forward[arcs.sources] + backward[arcs.targets]).max(axis=1)
            values = problem.centre_values(k, weights, np.arange(len(arcs)), arcs.similarity)
            best = int(np.argmax(values))
            if values[best] > objective + TOLERANCE:
                centres[k], objective, improved = best, float(values[best]), True
    return objective, centres


def random_centres(problem: PartitionProblem, generator: torch.Generator) -> list[int]:
    """Centres drawn from one random split of every network, so that they never exclude each other."""
    # Every path has K arcs, so random gains make a random path and never an inadmissible one.
    gains = [torch.rand(len(arcs), generator=generator, dtype=torch.float64).numpy() for arcs in problem.sets]
    paths = problem.best_paths(gains)
    chosen = torch.randint(problem.num_networks, (problem.num_blocks,), generator=generator).tolist()
    return [dict(paths[network])[k] for k, network in enumerate(chosen)]


def multi_start(
    problem: PartitionProblem, first: list[int], num_starts: int, generator: torch.Generator, clock: Clock
) -> tuple[float, list[int]]:
    """The best fixpoint from the given and from random centres; the earlier start wins a tie. The clock may end it."""
    best = ascend(problem, first)
    for _ in range(num_starts - 1):
        if clock.is_over():
            break
        found = ascend(problem, random_centres(problem, generator))
        if found[0] > best[0] + TOLERANCE:
            best = found
    return best
