"""Partition: this project's certified ascent against the published random-swap heuristic, at the same size limit.

``python -m benchmarks.partition`` (about a minute on one core). The baseline is ``partition.method=published``, our own
implementation of what the paper describes. Figures of one run, one thread; written to
``benchmarks/results/partition.json`` and ``.md``.

``--noise 60`` prints instead how far the certificate gets in a minute where similarities have no structure at all.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from benchmarks.common import publish, timed
from benchmarks.synthetic import residual_features
from reassembly.partition import find_partition
from reassembly.partition.published import SwapSearch
from reassembly.settings import PartitionSettings
from reassembly.similarity.cka import linear_cka
from zoo.arguments import Parser, positive, run


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--trials", type=positive, default=40, help="restarts of the baseline (ours has 40 too)")
    parser.add_argument("--noise", type=positive, metavar="NETWORKS", help="the certificate on noise, in 60 seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    if arguments.noise:
        print(gap_on_noise(arguments.noise, generator))
        return
    rows = []
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
            row = {
                "networks": num_networks,
                "nodes": sum(lengths),
                "K": num_blocks,
                "similarity": kind,
                "even, J": even.objective,
                "swaps, J": swapped,
                "swaps, s": their_seconds,
                "ours, J": ours.objective,
                "ours, s": our_seconds,
                "upper bound": ours.upper_bound,
                "gap, %": 0.0 if ours.proven else 100 * ours.gap,
                "ours / swaps": ours.objective / swapped,
            }
            print(row, flush=True)
            rows.append(row)
    least = min(row["ours / swaps"] for row in rows)
    proven = sum(row["gap, %"] == 0 for row in rows)
    reading = (
        f"ours is proven optimal in {proven} of {len(rows)} and {least:.3f} times the published swaps at least; one "
        f"thread, the swaps with {arguments.trials} restarts, seconds of the wall clock."
    )
    publish("partition", reading, rows)


def gap_on_noise(num_networks: int, generator: np.random.Generator, seconds: float = 60.0) -> str:
    """The gap that is left on uniform random similarities of networks of 12 to 20 nodes."""
    ends = np.cumsum(generator.integers(13, 22, num_networks))
    features = [list(range(start, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    similarity = generator.random((ends[-1], ends[-1]))
    settings = PartitionSettings(num_blocks=4, max_bound_steps=10**6, time_limit=seconds)
    names = [f"net{i}" for i in range(num_networks)]
    spent, found = timed(find_partition, np.maximum(similarity, similarity.T), features, names, settings)
    size = f"{num_networks} networks of noise, {ends[-1] - num_networks} nodes, K = 4"
    return f"{size}: J {found.objective:.2f}, bound {found.upper_bound:.2f}, gap {found.gap:.2%} in {spent:.0f} s"


if __name__ == "__main__":
    run(main)
