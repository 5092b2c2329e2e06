"""The partition problem as paths through layered graphs, one graph per network.

A network with L body nodes has positions 0..L between them (position p: after body node p; 0: after the stem). A path
of K arcs from position 0 to position L is a split into K blocks; the arc from p to q is the block of body nodes
p+1..q. In every equivalence set the blocks are compared with the set's centre, itself a block of one of the networks,
which keeps that block in its own split.

A graph vertex is (network, state, position), the state being the bitmask of the sets already used. In stage mode block
k belongs to set k, so only the states 0, 1, 11, 111... occur; in permutation mode every mask does, except in network 0,
which names the sets by the order of its own blocks (renaming sets changes nothing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = -np.inf


def longest_block(num_nodes: int, num_blocks: int, size_slack: float) -> int:
    """Largest allowed number of nodes of a block: max(floor((1 + eps) L / K), ceil(L / K))."""
    return max(math.floor((1 + size_slack) * num_nodes / num_blocks + 1e-9), -(-num_nodes // num_blocks))


@dataclass(frozen=True)
class SetArcs:
    """The blocks that may be in one equivalence set, sorted by network, and the arcs that put them there.

    Attributes:
        network, start, end: ``(B,)`` network index and positions of every block.
        first: ``(N,)`` index of every network's first block.
        sources, targets: ``(B, A)`` vertices of every block's arcs; rows with fewer arcs are filled with arcs from the
            void vertex, which no path reaches.
        similarity: ``(B, B)`` float64 functional similarity S[block, centre].
    """

    network: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.network)


class PartitionProblem:
    """All admissible blocks, their functional similarities and the graphs of their sequences.

    Args:
        similarity: ``(M, M)`` float64, representation similarity of features; row = block's, column = centre's.
        features: Per network the L + 1 indices into ``similarity`` of its positions' features (stem, body nodes).
        num_blocks: K.
        size_slack: eps of the size limit.
        permuted: Whether a network may use the sets in any order.
    """

    def __init__(
        self,
        similarity: np.ndarray,
        features: Sequence[Sequence[int]],
        num_blocks: int,
        size_slack: float,
        permuted: bool,
    ):
        self.num_networks, self.num_blocks, self.permuted = len(features), num_blocks, permuted
        self.lengths = np.array([len(indices) - 1 for indices in features])
        self._num_positions = int(self.lengths.max()) + 1
        self._states = range(2**num_blocks) if permuted else [2**k - 1 for k in range(num_blocks + 1)]
        self._state_index = {state: index for index, state in enumerate(self._states)}
        self.void = self.num_networks * len(self._states) * self._num_positions
        self.num_vertices = self.void + 1
        self.roots = self.vertex(np.arange(self.num_networks), 0, 0)
        self.goals = self.vertex(np.arange(self.num_networks), 2**num_blocks - 1, self.lengths)
        blocks = self._admissible_blocks(size_slack)
        self.sets = [self._set_arcs(k, blocks, size_slack, similarity, features) for k in range(num_blocks)]
        self._levels = [self._level_arcs(level) for level in range(num_blocks)]

    def vertex(self, network, state: int, position):
        """Number of a vertex; arrays of networks and positions give an array."""
        return (network * len(self._states) + self._state_index[state]) * self._num_positions + position

    # -- building ----------------------------------------------------------------------------------------------------

    def _admissible_blocks(self, size_slack: float) -> np.ndarray:
        """``(B, 3)`` of network, start, end of all blocks within the size limit."""
        return np.array(
            [
                (network, start, end)
                for network, length in enumerate(self.lengths.tolist())
                for start in range(length)
                for end in range(start + 1, min(length, start + longest_block(length, self.num_blocks, size_slack)) + 1)
            ]
        )

    def _states_before(self, k: int, network: int) -> list[int]:
        """States from which a network may put its next block into set k."""
        if not self.permuted or network == 0:
            return [2**k - 1]
        return [state for state in self._states if not state >> k & 1]

    def _set_arcs(self, k, blocks, size_slack, similarity, features) -> SetArcs:
        kept, arcs = [], []
        limits = [longest_block(length, self.num_blocks, size_slack) for length in self.lengths.tolist()]
        for network, start, end in blocks.tolist():
            rest, limit = int(self.lengths[network]) - end, limits[network]
            row = []
            for state in self._states_before(k, network):
                before = state.bit_count()
                after = self.num_blocks - before - 1
                if before <= start <= before * limit and after <= rest <= after * limit:
                    row.append((self.vertex(network, state, start), self.vertex(network, state | 1 << k, end)))
            if row:
                kept.append((network, start, end))
                arcs.append(row)
        network, start, end = np.array(kept).T
        padded = np.tile([self.void, 0], (len(arcs), max(map(len, arcs)), 1))
        for row, pairs in zip(padded, arcs, strict=True):
            row[: len(pairs)] = pairs
        inputs = np.array([features[i][p] for i, p in zip(network, start, strict=True)])
        outputs = np.array([features[i][p] for i, p in zip(network, end, strict=True)])
        return SetArcs(
            network,
            start,
            end,
            np.searchsorted(network, np.arange(self.num_networks)),
            padded[..., 0],
            padded[..., 1],
            similarity[np.ix_(inputs, inputs)] + similarity[np.ix_(outputs, outputs)],
        )

    def _level_arcs(self, level: int) -> tuple[np.ndarray, ...]:
        """Source, target, set and block of all arcs that are the ``level``-th of their path."""
        found = []
        for k, arcs in enumerate(self.sets):
            sets_used = np.array([state.bit_count() for state in self._states])
            used = sets_used[arcs.sources // self._num_positions % len(self._states)]
            block, arc = np.nonzero((used == level) & (arcs.sources != self.void))
            found.append((arcs.sources[block, arc], arcs.targets[block, arc], np.full(len(block), k), block))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    # -- solving -----------------------------------------------------------------------------------------------------

    def gains(self, centres: Sequence[int]) -> list[np.ndarray]:
        """Per set the ``(B,)`` similarity of its blocks to the centre, whose network can put no other block there."""
        result = []
        for arcs, centre in zip(self.sets, centres, strict=True):
            gain = arcs.similarity[:, centre].copy()
            gain[arcs.network == arcs.network[centre]] = IMPOSSIBLE
            gain[centre] = arcs.similarity[centre, centre]
            result.append(gain)
        return result

    def potentials(self, gains: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Best gain from the root to every vertex and from every vertex to the goal, ``(num_vertices,)`` each."""
        offsets = np.cumsum([0, *map(len, gains[:-1])])
        flat = np.concatenate(gains)
        forward = np.full(self.num_vertices, IMPOSSIBLE)
        backward = forward.copy()
        forward[self.roots] = backward[self.goals] = 0.0
        arc_gains = [flat[offsets[k] + block] for _, _, k, block in self._levels]
        for (source, target, _, _), gain in zip(self._levels, arc_gains, strict=True):
            np.maximum.at(forward, target, forward[source] + gain)
        for (source, target, _, _), gain in zip(self._levels[::-1], arc_gains[::-1], strict=True):
            np.maximum.at(backward, source, backward[target] + gain)
        return forward, backward

    def objective(self, centres: Sequence[int]) -> float:
        """J of the best splits with these centres; -inf where two centres exclude each other."""
        _, backward = self.potentials(self.gains(centres))
        return float(backward[self.roots].sum())

    def centre_values(self, k: int, weights: np.ndarray, candidates: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Value of candidates for the centre of set k when a block b in it adds ``weights[b]`` to its similarity.

        Args:
            k: Set.
            weights: ``(B,)``.
            candidates: ``(C,)`` block indices.
            similarity: ``(B, C)`` columns of the set's similarity that belong to them.

        Returns:
            ``(C,)`` sum over networks of max over blocks of weight + similarity to the candidate, the candidate's own
            network being held to it.
        """
        arcs = self.sets[k]
        best = np.maximum.reduceat(similarity + weights[:, None], arcs.first, axis=0)
        columns = np.arange(len(candidates))
        best[arcs.network[candidates], columns] = similarity[candidates, columns] + weights[candidates]
        return best.sum(axis=0)

    def best_paths(self, gains: Sequence[np.ndarray]) -> list[list[tuple[int, int]]]:
        """Per network the (set, block) sequence of a path of largest gain."""
        offsets = np.cumsum([0, *map(len, gains[:-1])])
        flat = np.concatenate(gains)
        _, backward = self.potentials(gains)
        vertices, paths = self.roots.copy(), [[] for _ in range(self.num_networks)]
        for source, target, k, block in self._levels:
            values = flat[offsets[k] + block] + backward[target]
            for network, path in enumerate(paths):
                arcs = np.flatnonzero(source == vertices[network])
                arc = arcs[np.argmax(values[arcs])]
                path.append((int(k[arc]), int(block[arc])))
                vertices[network] = target[arc]
        return paths
