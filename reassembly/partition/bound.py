"""Upper bound and proof of optimality: Lagrangian relaxation, reduced-cost fixing, branch and bound.

Giving every vertex v of every network a multiplier a[v] and letting each set choose its blocks on its own,

    U(a) = sum_k max_c sum_i max over arcs (u, v) of network i into set k: S[block, c] + a[u] - a[v]
           + sum_i a[goal_i] - a[root_i]

bounds J from above for every a, because along a path the multipliers cancel. U is convex in a; a deflected subgradient
method lowers it. U minus the best value of set k plus the value of one candidate c bounds all partitions whose set k
has centre c: where that is no better than the best known partition, c is dropped for good. Where candidates remain,
those of one set are tried apart, most promising part first.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reassembly.partition.ascent import ascend
from reassembly.partition.clock import Clock
from reassembly.partition.problem import IMPOSSIBLE, PartitionProblem

RELATIVE_TOLERANCE = 1e-6
DEFLECTION = 0.7
FIRST_LENGTH, MIN_LENGTH = 1.0, 0.02  # of a step, as a share of Polyak's
PATIENCE = 10  # steps without a clearly better bound before the length is halved
FIRST_STEPS, PART_STEPS = 300, 60
ENUMERATED = 64  # combinations of centres that are evaluated rather than bounded


def certify(
    problem: PartitionProblem, centres: list[int], max_steps: int, clock: Clock | None = None
) -> tuple[list[int], float, bool]:
    """Bounds the best J, improving the given centres on the way.

    Args:
        problem: What is maximised.
        centres: Best known block indices per set.
        max_steps: Subgradient steps to spend.
        clock: Ends it early.

    Returns:
        Best centres, upper bound, and whether the bound is within ``RELATIVE_TOLERANCE`` of their J.
    """
    return _Search(problem, centres, max_steps, clock or Clock(None)).solve()


@dataclass(frozen=True)
class _Part:
    """A part of the problem: per set the candidates left for its centre; its bound and the multipliers that gave it."""

    bound: float
    candidates: tuple[np.ndarray, ...]
    multipliers: np.ndarray


class Descent:
    """Deflected subgradient steps that lower a bound; halved, from the best multipliers on, where they stall."""

    def __init__(self, multipliers: np.ndarray) -> None:
        self.multipliers = self.best_multipliers = multipliers
        self.best: float = np.inf
        self._direction: np.ndarray | float = 0.0
        self._length, self._stale = FIRST_LENGTH, 0

    def record(self, bound: float, objective: float) -> None:
        """Takes note of the bound that the multipliers give."""
        clearly_better = bound < self.best - 1e-3 * (self.best - objective)
        self._stale = 0 if clearly_better else self._stale + 1
        if bound < self.best:
            self.best, self.best_multipliers = bound, self.multipliers

    def step(self, bound: float, gradient: np.ndarray, objective: float) -> bool:
        """Moves the multipliers; False where steps have become too short."""
        if self._stale >= PATIENCE:
            self._length, self._stale = self._length / 2, 0
            if self._length < MIN_LENGTH:
                return False
            self.multipliers = self.best_multipliers
        self._direction = gradient + DEFLECTION * self._direction
        step = self._length * (bound - objective) / max(float(self._direction @ self._direction), 1e-12)
        self.multipliers = self.multipliers - step * self._direction
        return True


class _Search:
    def __init__(self, problem: PartitionProblem, centres: list[int], max_steps: int, clock: Clock):
        self.problem, self.steps_left, self.clock = problem, max_steps, clock
        self.centres, self.objective = list(centres), problem.objective(centres)
        self._tried = {tuple(centres)}

    @property
    def target(self) -> float:
        """Bounds at or below this are as good as the best known partition."""
        return self.objective + RELATIVE_TOLERANCE * max(1.0, abs(self.objective))

    def solve(self) -> tuple[list[int], float, bool]:
        whole = _Part(np.inf, tuple(np.arange(len(arcs)) for arcs in self.problem.sets), self._first_multipliers())
        order = itertools.count()
        heap = [(-whole.bound, next(order), whole)]
        while heap and heap[0][2].bound > self.target and (self.steps_left > 0 or heap[0][2] is whole):
            _, _, part = heapq.heappop(heap)
            for child in self._solve(part, FIRST_STEPS if part is whole else PART_STEPS):
                heapq.heappush(heap, (-child.bound, next(order), child))
        upper_bound = max(self.target, *(part.bound for _, _, part in heap)) if heap else self.target
        return self.centres, upper_bound, upper_bound <= self.target

    def _first_multipliers(self) -> np.ndarray:
        """Multipliers that are optimal for the centres known so far."""
        gains = [arcs.similarity[:, centre] for arcs, centre in zip(self.problem.sets, self.centres, strict=True)]
        forward, backward = self.problem.potentials(gains)
        multipliers = np.zeros_like(forward)
        used = np.isfinite(forward + backward)
        multipliers[used] = (forward[used] - backward[used]) / 2
        multipliers[self.problem.void] = IMPOSSIBLE
        return multipliers

    def _solve(self, part: _Part, max_steps: int) -> list[_Part]:
        """Tightens the bound of a part; what is left of it as smaller parts, none if it holds nothing better."""
        candidates, descent = list(part.candidates), Descent(part.multipliers)
        columns = [arcs.similarity[:, c] for arcs, c in zip(self.problem.sets, candidates, strict=True)]
        for _ in range(max(1, min(max_steps, self.steps_left))):
            self.steps_left = 0 if self.clock.is_over() else self.steps_left - 1
            values, gradient = self._relax(descent.multipliers, candidates, columns)
            bound = sum(v.max() for v in values) + self._constant(descent.multipliers)
            self._try([int(c[np.argmax(v)]) for c, v in zip(candidates, values, strict=True)])
            descent.record(bound, self.objective)
            for k, value in enumerate(values):
                kept = bound - value.max() + value > self.target
                candidates[k], columns[k] = candidates[k][kept], columns[k][:, kept]
            if descent.best <= self.target or self._exhausted(candidates):
                return []
            if self.steps_left <= 0 or not descent.step(bound, gradient, self.objective):
                break
        return self._halve(min(descent.best, part.bound), candidates, columns, descent.best_multipliers)

    def _exhausted(self, candidates: Sequence[np.ndarray]) -> bool:
        """Whether a set has no candidate left, or so few combinations are left that all are tried here."""
        if np.prod([float(len(c)) for c in candidates]) > ENUMERATED:
            return False
        for centres in itertools.product(*candidates):
            self._try([int(c) for c in centres])
        return True

    def _constant(self, multipliers: np.ndarray) -> float:
        return float(multipliers[self.problem.goals].sum() - multipliers[self.problem.roots].sum())

    def _relax(self, multipliers, candidates, columns) -> tuple[list[np.ndarray], np.ndarray]:
        """Value of every candidate of every set, and a subgradient of the bound in the multipliers."""
        gradient = np.zeros_like(multipliers)
        gradient[self.problem.goals] += 1.0
        gradient[self.problem.roots] -= 1.0
        values = []
        for k, arcs in enumerate(self.problem.sets):
            arc_weights = multipliers[arcs.sources] - multipliers[arcs.targets]
            weights = arc_weights.max(axis=1)
            values.append(self.problem.centre_values(k, weights, candidates[k], columns[k]))
            column = int(np.argmax(values[k]))
            centre = candidates[k][column]
            gains = weights + columns[k][:, column]
            gains[arcs.network == arcs.network[centre]] = IMPOSSIBLE
            gains[centre] = 0.0
            blocks = [s + int(np.argmax(gains[s:e])) for s, e in itertools.pairwise([*arcs.first.tolist(), len(arcs)])]
            chosen = arc_weights[blocks].argmax(axis=1)
            np.add.at(gradient, arcs.sources[blocks, chosen], 1.0)
            np.add.at(gradient, arcs.targets[blocks, chosen], -1.0)
        return values, gradient

    def _try(self, centres: list[int]) -> None:
        """Climbs from centres not seen before, if they promise as much as the best known."""
        if tuple(centres) in self._tried:
            return
        self._tried.add(tuple(centres))
        objective = self.problem.objective(centres)
        if objective > self.objective:
            self.objective, self.centres = ascend(self.problem, centres)

    def _halve(self, bound, candidates, columns, multipliers) -> list[_Part]:
        """Splits the part at the set with the fewest candidates: the better half of them, and the other half."""
        values, _ = self._relax(multipliers, candidates, columns)
        total = sum(v.max() for v in values) + self._constant(multipliers)
        k = min((k for k, c in enumerate(candidates) if len(c) > 1), key=lambda k: len(candidates[k]))
        parts = []
        order = np.argsort(-values[k], kind="stable")
        for half in np.array_split(order, 2):
            smaller = [*candidates[:k], candidates[k][np.sort(half)], *candidates[k + 1 :]]
            limit = min(bound, total - values[k].max() + values[k][half].max())
            parts.append(_Part(float(limit), tuple(smaller), multipliers))
        return [part for part in parts if part.bound > self.target]
