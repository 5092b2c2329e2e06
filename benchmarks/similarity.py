"""Similarity of all pairs of nodes: this project's one pass against the published pairwise computation.

``python -m benchmarks.similarity`` (about a minute on one core). The baseline is our own implementation of what the
paper describes, with the operations of its public code: for every pair of nodes both Gram matrices are built anew and
centred by subtracting their means (n^2 work; products with H = I - 1 1^T / n would be n^3 and make the baseline look
slower), and the biased CKA of batches is averaged. It is timed on a sample of
pairs; all times are of one thread, interleaved.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import torch
from torch import Tensor

from benchmarks.common import timed
from benchmarks.synthetic import residual_features
from reassembly.similarity.cka import linear_cka


def pairwise_cka(x: Tensor, y: Tensor, batch_size: int) -> float:
    """Mean over batches of the biased linear CKA of one pair, Gram matrices centred by their means in float32."""
    values = []
    for start in range(0, len(x) - batch_size + 1, batch_size):
        grams = []
        for features in (x, y):
            batch = features[start : start + batch_size]
            gram = batch @ batch.T
            means = gram.mean(dim=0)
            grams.append(gram - means - means[:, None] + means.mean())
        first, second = grams
        values.append(float((first * second).sum() / (first.norm() * second.norm())))
    return statistics.mean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256, help="batch size of both estimators")
    parser.add_argument("--pairs", type=int, default=12, help="pairs on which the baseline is timed")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    nodes = list(itertools.chain(*residual_features([9] * (arguments.nodes // 10), arguments.images, seed=0)))
    all_pairs = list(itertools.combinations(range(len(nodes)), 2))
    chosen = all_pairs[:: max(1, len(all_pairs) // arguments.pairs)]

    ratios = {"batches": [], "all images at once": []}
    for _ in range(arguments.repeats):
        ours, matrix = timed(linear_cka, nodes, batch_size=arguments.batch)
        for name, batch in (("batches", arguments.batch), ("all images at once", arguments.images)):
            pairwise, values = timed(lambda b: [pairwise_cka(nodes[i], nodes[j], b) for i, j in chosen], batch)
            ratios[name].append(pairwise / len(chosen) * len(all_pairs) / ours)
            if name == "batches":
                biased = torch.tensor(values, dtype=torch.float64)
    exact = linear_cka(nodes, batch_size=None)
    rows, columns = torch.tensor(chosen).T
    size = f"{len(nodes)} nodes, {arguments.images} images, {len(all_pairs)} pairs"
    print(f"{size}: {ours:.2f} s (batches of {arguments.batch})")
    for name, values in ratios.items():
        print(
            f"  times faster than pairwise on {name}: {statistics.median(values):.0f} "
            f"({min(values):.0f}-{max(values):.0f}, baseline timed on {len(chosen)} pairs)"
        )
    error = (matrix - exact)[rows, columns]
    print(
        f"  error against the exact unbiased CKA: ours {error.abs().max():.4f} at most, {error.mean():+.4f} on average"
    )
    error = biased - exact[rows, columns]
    print(f"  mean of biased batches: {error.abs().max():.4f} at most, {error.mean():+.4f} on average")


if __name__ == "__main__":
    main()
