"""Partition: this project's certified ascent against the published random-swap heuristic, at the same size limit.

``python -m benchmarks.partition`` (about a minute on one core). The baseline is ``partition.method=published``, our own
implementation of what the paper describes. Figures of one run, one thread.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch

from benchmarks.common import timed
from benchmarks.synthetic import residual_features
from reassembly.partition import find_partition
from reassembly.partition.published import SwapSearch
from reassembly.settings import PartitionSettings
from reassembly.similarity.cka import linear_cka


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
            their_seconds, swapped = timed(lambda s=swaps: max(s.trial()[0] for _ in range(arguments.trials)))
            our_seconds, ours = timed(find_partition, similarity, features, names, settings)
            print(
                f"{num_networks:3d} {sum(lengths):4d} {num_blocks} {kind:6s} | {even.objective:7.2f} | {swapped:7.2f}, "
                f"{their_seconds:5.1f} | {ours.objective:7.2f}, {our_seconds:4.1f} | {ours.upper_bound:7.2f}, "
                f"{'proven' if ours.proven else f'{ours.gap:.1%}'} | {ours.objective / swapped:.3f}"
            )


if __name__ == "__main__":
    main()
