"""The published way to a partition, in our own words, for comparison: random swaps of borders, K-means-like recentring.

Random splits; then in turn the most similar member of every set becomes its centre, and a random border of a random
network moves by one node where that raises the similarity to the centres; restarted, the best J kept. The public code
does not hold to its size limit; this one does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from reassembly.partition.clock import Clock
from reassembly.partition.problem import longest_block

PATIENCE = 60
Ends = tuple[int, int]


class SwapSearch:
    """The heuristic; ``trial`` is one random start and its descent.

    Args:
        similarity: ``(M, M)``.
        features: Per network the indices of its positions' features.
        num_blocks: K.
        slack: eps of the size limit.
        seed: Of all its choices.
        nearest: Whether a block belongs to the nearest centre, instead of block k to set k.
    """

    def __init__(
        self,
        similarity: np.ndarray,
        features: Sequence[Sequence[int]],
        num_blocks: int,
        slack: float,
        seed: int,
        nearest: bool = False,
    ):
        self.similarity, self.features, self.num_blocks = similarity, features, num_blocks
        self.limits = [longest_block(len(f) - 1, num_blocks, slack) for f in features]
        self.nearest = nearest
        self.random = np.random.default_rng(seed)

    def trial(self) -> tuple[float, list[list[int]], list[Ends]]:
        """J of one start, the positions of its splits, and per set the (network, block) that is its centre."""
        splits = [self._random_split(i) for i in range(len(self.features))]
        centres = [(int(self.random.integers(len(splits))), k) for k in range(self.num_blocks)]
        best, centres = self._recentred(splits, centres)
        failures = 0
        while failures < PATIENCE:
            i, border = int(self.random.integers(len(splits))), int(self.random.integers(1, max(self.num_blocks, 2)))
            moved = list(splits[i])
            if self.num_blocks > 1:
                moved[border] += int(self.random.choice([-1, 1]))
            if moved != splits[i] and self._allowed(i, moved):
                ends = [self._ends(n, splits[n], k) for n, k in centres]
                gain = sum(
                    sign * self._worth(self._ends(i, split, k), k, ends)
                    for sign, split in ((1, moved), (-1, splits[i]))
                    for k in (border - 1, border)
                )
                trial = [*splits[:i], moved, *splits[i + 1 :]]
                if gain > 1e-12 and (found := self._recentred(trial, centres))[0] > best + 1e-12:
                    splits, failures, (best, centres) = trial, 0, found
                    continue
            failures += 1
        return best, splits, centres

    def _recentred(self, splits: list[list[int]], centres: list[Ends]) -> tuple[float, list[Ends]]:
        """The most similar member of every set as its centre, and J by these."""
        members: list[list[Ends]] = [[] for _ in centres]
        ends = [self._ends(n, splits[n], k) for n, k in centres]
        for place in itertools.product(range(len(splits)), range(self.num_blocks)):
            members[self._set(self._ends(place[0], splits[place[0]], place[1]), place, centres, ends)].append(place)
        chosen = []
        for own, centre in zip(members, centres, strict=True):
            blocks = [self._ends(n, splits[n], k) for n, k in own]
            sums = [sum(self._value(block, other) for block in blocks) for other in blocks]
            chosen.append(own[int(np.argmax(sums))] if own else centre)
        ends = [self._ends(n, splits[n], k) for n, k in chosen]
        total = 0.0
        for n, k in itertools.product(range(len(splits)), range(self.num_blocks)):
            block = self._ends(n, splits[n], k)
            total += self._value(block, ends[self._set(block, (n, k), chosen, ends)])
        return total, chosen

    def _set(self, block: Ends, place: Ends, centres: list[Ends], ends: list[Ends]) -> int:
        if not self.nearest:
            return place[1]
        if place in centres:
            return centres.index(place)
        return int(np.argmax([self._value(block, centre) for centre in ends]))

    def _worth(self, block: Ends, k: int, centres: list[Ends]) -> float:
        return max(self._value(block, centre) for centre in centres) if self.nearest else self._value(block, centres[k])

    def _allowed(self, network: int, split: list[int]) -> bool:
        return all(1 <= b - a <= self.limits[network] for a, b in itertools.pairwise(split))

    def _random_split(self, network: int) -> list[int]:
        length = len(self.features[network]) - 1
        while True:
            inner = sorted(self.random.choice(np.arange(1, length), self.num_blocks - 1, replace=False).tolist())
            if self._allowed(network, split := [0, *inner, length]):
                return split

    def _ends(self, network: int, split: list[int], k: int) -> Ends:
        return self.features[network][split[k]], self.features[network][split[k + 1]]

    def _value(self, first: Ends, second: Ends) -> float:
        return float(self.similarity[first[0], second[0]] + self.similarity[first[1], second[1]])


def swap(search: SwapSearch, num_starts: int, clock: Clock) -> tuple[list[list[int]], list[Ends]]:
    """Splits and centres of the best of many starts."""
    best = search.trial()
    for _ in range(num_starts - 1):
        if clock.is_over():
            break
        best = max(best, search.trial(), key=lambda found: found[0])
    return best[1], best[2]
