"""Similarity of all pairs of nodes: this project's one pass against the pairwise computation that is published.

``python -m benchmarks.similarity`` (some minutes on one core); writes ``benchmarks/results/similarity.json`` and
``.md``. The baselines are our own implementations of the operations of public code, timed on a sample of pairs:

- ``linear_cka``: for every pair both Gram matrices are built anew and centred by subtracting their means (n^2 work;
  products with H = I - 1 1^T / n would be n^3 and make the baseline look slower), biased, averaged over batches;
- ``regression``: a QR decomposition of one node for every pair, in-sample; ours is leave-one-out, which costs more;
- ``svcca``: two SVDs and one of the product of the bases for every pair.

Seconds are of the processor, of one thread, interleaved.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common import publish
from reassembly.similarity.cka import KernelAlignment, linear_cka
from reassembly.similarity.subspace import linear_regression, svcca
from zoo.arguments import Parser, positive, run

WIDTHS = (64, 128, 256, 512, 1024, 2048)
RIDGE = 0.1
"""The default of ``similarity=regression``."""


@dataclass(frozen=True)
class Row:
    """One measure.

    Attributes:
        measure: Against what.
        num_nodes: M.
        num_images: n.
        seconds: Of all pairs at once, CPU, least of the rounds.
        pairwise_seconds: Of one pair by the baseline, mean over the sample.
        ratios: Of the baseline for M (M + 1) / 2 pairs to ours, of each round.
    """

    measure: str
    num_nodes: int
    num_images: int
    seconds: float
    pairwise_seconds: float
    ratios: tuple[float, ...]

    def cells(self) -> dict[str, str | float]:
        """What a table shows of it."""
        return {
            "measure": self.measure,
            "all pairs, s": self.seconds,
            "one pair, published way, s": self.pairwise_seconds,
            "times faster": statistics.median(self.ratios),
            "least": min(self.ratios),
            "most": max(self.ratios),
        }


def made_up_features(num_nodes: int, num_images: int) -> list[Tensor]:
    """Rectified mixtures of 64 shared numbers and of noise, (n, d) each, d in turn out of ``WIDTHS``."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(num_images, 64, generator=generator)
    features = []
    for width in itertools.islice(itertools.cycle(WIDTHS), num_nodes):
        mixed = latent @ torch.randn(64, width, generator=generator) / 8
        features.append((mixed + 0.3 * torch.randn(num_images, width, generator=generator)).relu())
    return features


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


def pairwise_regression(x: Tensor, y: Tensor) -> float:
    """Share of y's sum of squares in the column space of x, by a QR decomposition in float32."""
    basis = torch.linalg.qr(x - x.mean(0)).Q
    centred = y - y.mean(0)
    return float((basis.T @ centred).square().sum() / centred.square().sum())


def pairwise_svcca(x: Tensor, y: Tensor, explained_variance: float = 0.99) -> float:
    """Mean canonical correlation of the leading components, all decompositions anew, in float64."""
    bases = []
    for features in (x.double(), y.double()):
        left, singular, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
        share = singular.square().cumsum(0) / singular.square().sum()
        bases.append(left[:, : int((share < explained_variance).sum()) + 1])
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).mean())


def cpu(function: Callable, *arguments) -> float:
    """CPU seconds that a call takes."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def product_rate(side: int = 2048) -> float:
    """Floating-point operations per CPU second of a float32 matrix product, best of three."""
    x = torch.randn(side, side)
    return 2 * side**3 / min(cpu(torch.mm, x, x) for _ in range(3))


def compare(
    name: str,
    ours: Callable[[list[Tensor]], Tensor],
    pairwise: Callable[[Tensor, Tensor], float],
    features: list[Tensor],
    num_pairs: int,
    num_rounds: int,
) -> Row:
    """The row of a measure."""
    all_pairs = list(itertools.combinations_with_replacement(range(len(features)), 2))
    order = torch.randperm(len(all_pairs), generator=torch.Generator().manual_seed(0))
    chosen = [all_pairs[index] for index in order[:num_pairs]]
    seconds, pair_seconds = [], []
    for _ in range(num_rounds):
        seconds.append(cpu(ours, features))
        pair_seconds.append(statistics.mean(cpu(pairwise, features[i], features[j]) for i, j in chosen))
    ratios = tuple(theirs * len(all_pairs) / own for own, theirs in zip(seconds, pair_seconds, strict=True))
    return Row(name, len(features), len(features[0]), min(seconds), statistics.median(pair_seconds), ratios)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--nodes", type=positive, default=50)
    parser.add_argument("--images", type=positive, default=1024)
    parser.add_argument("--batch", type=positive, default=256, help="batch size of linear CKA, ours and theirs")
    parser.add_argument("--pairs", type=positive, default=20, help="pairs on which the baselines are timed")
    parser.add_argument("--repeats", type=positive, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    features = made_up_features(arguments.nodes, arguments.images)
    batch = arguments.batch
    rows, rates = [], [product_rate()]
    for name, ours, pairwise, num_pairs in (
        (f"linear CKA, batches of {batch}", ours_cka(batch), lambda x, y: pairwise_cka(x, y, batch), arguments.pairs),
        (
            "linear CKA, theirs on all images at once",
            ours_cka(batch),
            lambda x, y: pairwise_cka(x, y, arguments.images),
            arguments.pairs,
        ),
        ("regression", lambda x: linear_regression(x, ridge=RIDGE), pairwise_regression, arguments.pairs),
        ("svcca", svcca, pairwise_svcca, arguments.pairs),
    ):
        rows.append(compare(name, ours, pairwise, features, num_pairs, arguments.repeats))
        rates.append(product_rate())
        print(rows[-1], flush=True)
    needed = (2 * sum(x.shape[1] for x in features) + len(features) ** 2) * arguments.images * batch
    exact = KernelAlignment(dtype=torch.float64)
    num_batches = -(-arguments.images // batch)
    for start in range(num_batches):
        exact.update([x[start::num_batches] for x in features])
    own = linear_cka(features, batch_size=batch)
    rounding = float((own - exact.compute()).abs().max())
    estimator = float((own - linear_cka(features, batch_size=None)).abs().max())
    reading = (
        f"Linear CKA runs at {needed / rows[0].seconds / max(rates):.2f} of the float32 rate of matrix products "
        f"({max(rates) / 1e9:.0f} GFLOP/s, operations counted without symmetry); float32 costs it {rounding:.1e}, "
        f"batches {estimator:.1e}."
    )
    reading += (
        f" {len(features)} nodes of 64 to 2048 channels, {arguments.images} images, CPU seconds of one thread; a pair "
        "by the published way is timed on a sample."
    )
    print(publish("similarity", reading, [row.cells() for row in rows]))


def ours_cka(batch: int) -> Callable[[list[Tensor]], Tensor]:
    """Linear CKA in batches."""
    return lambda features: linear_cka(features, batch_size=batch)


if __name__ == "__main__":
    run(main)
