"""Partition: this project's certified ascent against the published random-swap heuristic, at the same size limit.

``python -m benchmarks.partition`` (about a minute on one core). The baseline is our own implementation of what the
paper describes: random splits, then in turn the most similar member of every group becomes its centre and a random
border of a random network moves by one node where that raises the similarity to the centres; restarted, the best J
kept. (The public code does not enforce its size limit; this one does.) Figures of one run, one thread.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch

from benchmarks.common import timed
from benchmarks.synthetic import residual_features
from reassembly.partition import find_partition, longest_block
from reassembly.settings import PartitionSettings
from reassembly.similarity.cka import linear_cka


class SwapSearch:
    """The heuristic; ``trial`` is one random start and its descent."""

    def __init__(self, similarity: np.ndarray, features: list[list[int]], num_blocks: int, slack: float, seed: int):
        self.similarity, self.features, self.num_blocks = similarity, features, num_blocks
        self.limits = [longest_block(len(f) - 1, num_blocks, slack) for f in features]
        self.random = np.random.default_rng(seed)

    def allowed(self, network: int, split: list[int]) -> bool:
        return all(1 <= b - a <= self.limits[network] for a, b in itertools.pairwise(split))

    def random_split(self, network: int) -> list[int]:
        length = len(self.features[network]) - 1
        while True:
            inner = sorted(self.random.choice(np.arange(1, length), self.num_blocks - 1, replace=False).tolist())
            if self.allowed(network, split := [0, *inner, length]):
                return split

    def ends(self, network: int, split: list[int], k: int) -> tuple[int, int]:
        return self.features[network][split[k]], self.features[network][split[k + 1]]

    def value(self, first: tuple[int, int], second: tuple[int, int]) -> float:
        return self.similarity[first[0], second[0]] + self.similarity[first[1], second[1]]

    def centres(self, splits) -> tuple[float, list[tuple[int, int]]]:
        total, chosen = 0.0, []
        for k in range(self.num_blocks):
            blocks = [self.ends(i, split, k) for i, split in enumerate(splits)]
            values = [sum(self.value(block, centre) for block in blocks) for centre in blocks]
            best = int(np.argmax(values))
            total, chosen = total + values[best], [*chosen, blocks[best]]
        return total, chosen

    def trial(self, patience: int = 60) -> float:
        splits = [self.random_split(i) for i in range(len(self.features))]
        best, centres = self.centres(splits)
        failures = 0
        while failures < patience:
            i = int(self.random.integers(len(splits)))
            border = int(self.random.integers(1, self.num_blocks))
            moved = list(splits[i])
            moved[border] += int(self.random.choice([-1, 1]))
            gain = 0.0
            if self.allowed(i, moved):
                for k in (border - 1, border):
                    gain += self.value(self.ends(i, moved, k), centres[k])
                    gain -= self.value(self.ends(i, splits[i], k), centres[k])
            if gain > 1e-12:
                splits[i] = moved
                best, centres = self.centres(splits)
                failures = 0
            else:
                failures += 1
        return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40, help="restarts of the baseline (ours has 40 too)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    print("networks nodes K similarity | even | swaps J, s | ours J, s | upper bound, gap | ours/swaps")
    for num_networks, low, high, num_blocks in (
        (7, 6, 10, 3),
        (7, 6, 10, 4),
        (7, 6, 12, 6),
        (12, 8, 16, 4),
        (28, 12, 20, 4),
    ):
        lengths = generator.integers(low, high + 1, num_networks).tolist()
        networks = residual_features(lengths, 512, seed=num_networks)
        numbers = iter(range(sum(lengths) + num_networks))
        features = [[next(numbers) for _ in network] for network in networks]
        names = [f"net{i}" for i in range(num_networks)]
        cka = linear_cka(list(itertools.chain(*networks))).numpy()
        noise = generator.random(cka.shape)
        for kind, similarity in (("cka", cka), ("random", np.maximum(noise, noise.T))):
            settings = PartitionSettings(num_blocks=num_blocks)
            even = find_partition(similarity, features, names, PartitionSettings(num_blocks=num_blocks, mode="even"))
            swaps = SwapSearch(similarity, features, num_blocks, settings.size_slack, seed=0)
            their_seconds, swapped = timed(lambda s=swaps: max(s.trial() for _ in range(arguments.trials)))
            our_seconds, ours = timed(find_partition, similarity, features, names, settings)
            print(
                f"{num_networks:3d} {sum(lengths):4d} {num_blocks} {kind:6s} | {even.objective:7.2f} | {swapped:7.2f}, "
                f"{their_seconds:5.1f} | {ours.objective:7.2f}, {our_seconds:4.1f} | {ours.upper_bound:7.2f}, "
                f"{'proven' if ours.proven else f'{ours.gap:.1%}'} | {ours.objective / swapped:.3f}"
            )


if __name__ == "__main__":
    main()
