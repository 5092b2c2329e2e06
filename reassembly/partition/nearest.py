"""The partition as the article has it: every block belongs to the nearest of K centres, sets are of any composition.

J = sum over all blocks of max over k of S(block, centre k). A set may hold several blocks of one network and none of
another; a centre belongs to its own set, and stands in its own network's split. Solved by coordinate ascent that is
exact in one centre and all splits at once. Its bound is Lagrangian: with a price a[b] for every block that is used,

    U(a) = the K largest of rho_c(a) + sum_i the best split of network i by the prices of its blocks,
    rho_c(a) = sum_i the best disjoint blocks of network i by max(0, S(block, c) - a[block])

bounds J for every a, because a split's blocks are disjoint, and each is worth its price and what is above it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from reassembly.partition.ascent import TOLERANCE
from reassembly.partition.bound import RELATIVE_TOLERANCE, Descent
from reassembly.partition.clock import Clock
from reassembly.partition.problem import IMPOSSIBLE, longest_block

Split = list[int]


class NearestProblem:
    """All admissible blocks and their similarities.

    Args:
        similarity: ``(M, M)`` float64, row = block's node, column = centre's.
        features: Per network the L + 1 indices into ``similarity`` of its positions' features.
        num_blocks: K.
        size_slack: eps of the size limit.
    """

    def __init__(self, similarity: np.ndarray, features: Sequence[Sequence[int]], num_blocks: int, size_slack: float):
        self.num_blocks, self.lengths = num_blocks, [len(indices) - 1 for indices in features]
        self.arcs, self.first, ends = [], [0], []
        for indices, length in zip(features, self.lengths, strict=True):
            limit = longest_block(length, num_blocks, size_slack)
            arcs = [(s, e) for s in range(length) for e in range(s + 1, min(length, s + limit) + 1)]
            self.arcs.append(arcs)
            self.first.append(self.first[-1] + len(arcs))
            ends += [(indices[s], indices[e]) for s, e in arcs]
        inputs, outputs = np.array(ends).T
        self.similarity = similarity[np.ix_(inputs, inputs)] + similarity[np.ix_(outputs, outputs)]
        self.network = np.repeat(np.arange(len(features)), np.diff(self.first))
        self.own = self.similarity.diagonal()

    def of(self, network: int) -> slice:
        """A network's blocks among all."""
        return slice(self.first[network], self.first[network + 1])

    def overlap(self, block: int) -> np.ndarray:
        """Of a block's network, those blocks that no split has beside it."""
        network = self.network[block]
        start, end = self.arcs[network][block - self.first[network]]
        found = np.array([s < end and start < e for s, e in self.arcs[network]])
        found[block - self.first[network]] = False
        return found

    def gains(self, centres: Sequence[int], network: int) -> np.ndarray:
        """(B_i,) similarity of a network's blocks to their nearest centre, impossible where a centre forbids them."""
        rows = self.of(network)
        gain = (
            self.similarity[rows][:, list(centres)].max(axis=1)
            if len(centres)
            else np.full(self._size(network), IMPOSSIBLE)
        )
        for centre in centres:
            if self.network[centre] == network:
                gain[centre - self.first[network]] = self.own[centre]
        for centre in centres:
            if self.network[centre] == network:
                gain[self.overlap(centre)] = IMPOSSIBLE
        return gain

    def objective(self, centres: Sequence[int]) -> float:
        """J of the best splits with these centres; -inf where two exclude each other."""
        if len(set(centres)) < len(centres):
            return IMPOSSIBLE
        gains = (self.gains(centres, i)[:, None] for i in range(len(self.lengths)))
        return float(sum(self._best(i, gain)[-1][-1, 0] for i, gain in enumerate(gains)))

    def centre_values(self, others: Sequence[int]) -> np.ndarray:
        """(B,) J with every block as the one centre beside the others."""
        total = np.zeros(len(self.network))
        for i in range(len(self.lengths)):
            rows = self.of(i)
            base = self.gains(others, i)
            gain = np.maximum(base[:, None], self.similarity[rows])
            gain[base == IMPOSSIBLE if others else np.zeros(len(base), bool)] = IMPOSSIBLE
            for other in others:  # a centre stays in its own set
                if self.network[other] == i and base[other - self.first[i]] != IMPOSSIBLE:
                    gain[other - self.first[i]] = self.own[other]
            for block in range(rows.start, rows.stop):
                if gain[block - rows.start, block] != IMPOSSIBLE:
                    gain[block - rows.start, block] = self.own[block]
                gain[self.overlap(block), block] = IMPOSSIBLE
            total += self._best(i, gain)[-1][-1]
        total[list(others)] = IMPOSSIBLE
        return total

    def splits(self, centres: Sequence[int]) -> list[Split]:
        """Per network the K + 1 positions of the best split."""
        return [self._trace(i, self.gains(centres, i))[0] for i in range(len(self.lengths))]

    def relax(self, prices: np.ndarray) -> tuple[float, np.ndarray, list[int]]:
        """The bound by these prices, a subgradient of it in them, and the centres that it takes."""
        gradient, bound = np.zeros_like(prices), 0.0
        values = np.zeros(len(prices))
        above = np.maximum(self.similarity - prices[:, None], 0.0)
        for i, length in enumerate(self.lengths):
            rows = self.of(i)
            split, value = self._trace(i, prices[rows])
            bound += value
            position = {arc: rows.start + n for n, arc in enumerate(self.arcs[i])}
            for arc in itertools.pairwise(split):
                gradient[position[arc]] += 1.0
            values += _packed(self.arcs[i], length, above[rows])[-1]
        centres = np.argsort(-values, kind="stable")[: self.num_blocks]
        for i, length in enumerate(self.lengths):
            rows = self.of(i)
            for centre in centres:
                worth = above[rows, centre]
                best = _packed(self.arcs[i], length, worth[:, None])[:, 0]
                for n in _unpacked(self.arcs[i], length, worth, best):
                    gradient[rows.start + n] -= 1.0
        return float(bound + values[centres].sum()), gradient, centres.tolist()

    def _size(self, network: int) -> int:
        return self.first[network + 1] - self.first[network]

    def _best(self, network: int, gain: np.ndarray) -> list[np.ndarray]:
        """After 0 to K blocks the ``(L + 1, C)`` best sums up to every position."""
        sums = np.full((self.lengths[network] + 1, gain.shape[1]), IMPOSSIBLE)
        sums[0] = 0.0
        levels = [sums]
        for _ in range(self.num_blocks):
            further = np.full_like(sums, IMPOSSIBLE)
            for (start, end), row in zip(self.arcs[network], gain, strict=True):
                np.maximum(further[end], levels[-1][start] + row, out=further[end])
            levels.append(further)
        return levels

    def _trace(self, network: int, gain: np.ndarray) -> tuple[Split, float]:
        levels = self._best(network, gain[:, None])
        split, end = [self.lengths[network]], self.lengths[network]
        for level in range(self.num_blocks, 0, -1):
            reached = [
                (levels[level - 1][s, 0] + gain[n], -s) for n, (s, e) in enumerate(self.arcs[network]) if e == end
            ]
            end = -max(reached)[1]
            split.insert(0, end)
        return split, float(levels[-1][-1, 0])


def ascend(problem: NearestProblem, centres: Sequence[int]) -> tuple[float, list[int]]:
    """Improves one centre at a time, with all splits, until none can be improved; J and the centres."""
    centres, objective = list(centres), problem.objective(centres)
    improved = True
    while improved:
        improved = False
        for k in range(len(centres)):
            values = problem.centre_values([*centres[:k], *centres[k + 1 :]])
            best = int(np.argmax(values))
            if values[best] > objective + TOLERANCE:
                centres[k], objective, improved = best, float(values[best]), True
    return objective, centres


def solve(
    problem: NearestProblem,
    first: Sequence[int],
    num_starts: int,
    max_steps: int,
    generator: torch.Generator,
    clock: Clock,
) -> tuple[list[int], float]:
    """The best centres of many starts, and an upper bound of J.

    Args:
        problem: What is maximised.
        first: Centres to start from.
        num_starts: Starts, the others random.
        max_steps: Of the subgradient; 0 reports the trivial bound.
        generator: Of the random starts.
        clock: Ends both early.
    """
    objective, centres = ascend(problem, first)
    for _ in range(num_starts - 1):
        if clock.is_over():
            break
        found = ascend(problem, random_centres(problem, generator))
        if found[0] > objective + TOLERANCE:
            objective, centres = found
    descent, tried = Descent(problem.similarity[:, centres].max(axis=1)), {tuple(sorted(centres))}
    trivial = float(len(problem.lengths) * problem.num_blocks * problem.similarity.max())
    for _ in range(max_steps):
        bound, gradient, promising = problem.relax(descent.multipliers)
        if (key := tuple(sorted(promising))) not in tried:
            tried.add(key)
            if problem.objective(promising) > objective + TOLERANCE:
                objective, centres = ascend(problem, promising)
        descent.record(bound, objective)
        enough = descent.best <= objective + RELATIVE_TOLERANCE * max(1.0, abs(objective))
        if enough or clock.is_over() or not descent.step(bound, gradient, objective):
            break
    return centres, max(min(descent.best, trivial), objective)


def random_centres(problem: NearestProblem, generator: torch.Generator) -> list[int]:
    """Blocks of one random split of every network, so that they never exclude each other."""
    used = []
    for i in range(len(problem.lengths)):
        gain = torch.rand(problem._size(i), generator=generator, dtype=torch.float64).numpy()
        position = {arc: problem.first[i] + n for n, arc in enumerate(problem.arcs[i])}
        used += [position[arc] for arc in itertools.pairwise(problem._trace(i, gain)[0])]
    return [used[n] for n in torch.randperm(len(used), generator=generator)[: problem.num_blocks].tolist()]


def _packed(arcs: Sequence[tuple[int, int]], length: int, worth: np.ndarray) -> np.ndarray:
    """(L + 1, C) most that disjoint blocks up to every position are worth."""
    best = np.zeros((length + 1, worth.shape[1]))
    order = sorted(range(len(arcs)), key=lambda n: arcs[n][1])
    done = 0
    for n in order:
        start, end = arcs[n]
        while done < end:
            done += 1
            best[done] = best[done - 1]
        np.maximum(best[end], best[start] + worth[n], out=best[end])
    return best


def _unpacked(arcs: Sequence[tuple[int, int]], length: int, worth: np.ndarray, best: np.ndarray) -> list[int]:
    """The blocks that are worth the most together."""
    found, end = [], length
    while end > 0:
        if best[end] == best[end - 1]:
            end -= 1
            continue
        n = next(n for n, (s, e) in enumerate(arcs) if e == end and best[s] + worth[n] == best[end])
        found.append(n)
        end = arcs[n][0]
    return found
