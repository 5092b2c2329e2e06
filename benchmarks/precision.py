"""What bfloat16 does to the ranking of candidates: ``python -m benchmarks.precision`` (some minutes on two cores).

The same search twice on the embedded zoo and its digits, once with forward passes in float32 and once in bfloat16
(autocast), both on the same partition: that of float32. The table gives, by proxy, Kendall's tau-b of all scores and of
the ten best by float32, the largest difference of a score, and whether the same composition is first. Written to
``benchmarks/results/precision.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.common import embedded_zoo, publish, timed
from datamodules import Digits
from reassembly.partition import Partition
from reassembly.pipeline import Search
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings
from zoo.arguments import Parser, positive, run
from zoo.devices import CPU, Placement, find_device
from zoo.storage.store import Store

PROXIES = ("ridge", "ridge_cuts", "logme", "naswot")
NUM_BEST = 10
READING = "scores of the same compositions with forward passes in bfloat16 against those in float32 on the {device}."


class _OnPartition(Search):
    """A search whose networks are cut as those of another one."""

    partition: Partition | None = None

    def _partition(self, *arguments: Any) -> Partition:
        return self.partition or super()._partition(*arguments)


def scores(
    placement: Placement, folder: str, num_images: int, partition: Partition | None = None
) -> tuple[dict[str, dict[str, float]], Partition]:
    """The scores of all candidates by composition, and the partition."""
    settings = SearchSettings(
        partition=PartitionSettings(num_blocks=3),
        budget=Budget(max_params=200_000),
        proxy=ProxySettings(also=PROXIES[1:], num_draws=1, num_images=num_images),
    )
    search = _OnPartition(embedded_zoo(), Digits(), settings, store=Store(folder), seed=0, placement=placement)
    search.partition = partition
    found = search.run()
    return {entry.candidate.composition: dict(entry.scores) for entry in found.candidates}, found.partition


def row(proxy: str, exact: dict[str, dict[str, float]], rounded: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What rounding does to one proxy."""
    shared = [name for name in exact if np.isfinite(exact[name][proxy]) and np.isfinite(rounded[name][proxy])]
    pairs = np.array([(exact[name][proxy], rounded[name][proxy]) for name in shared])
    best = pairs[np.argsort(-pairs[:, 0])[:NUM_BEST]]
    return {
        "proxy": proxy,
        "candidates": len(pairs),
        "tau": float(kendalltau(*pairs.T).statistic),
        f"tau of the {NUM_BEST} best": float(kendalltau(*best.T).statistic),
        "largest difference": float(np.abs(pairs[:, 0] - pairs[:, 1]).max()),
        "spread of scores": float(pairs[:, 0].std()),
        "same first": "yes" if pairs[:, 0].argmax() == pairs[:, 1].argmax() else "no",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    import tempfile

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=positive, default=300)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = find_device(options.device, "--device")
    with tempfile.TemporaryDirectory() as folder:
        seconds, (exact, partition) = timed(scores, Placement(device), folder, options.images)
        rounded_seconds, (rounded, _) = timed(scores, Placement(device, "bfloat16"), folder, options.images, partition)
    rows = [row(proxy, exact, rounded) for proxy in PROXIES]
    told = f"{READING.format(device=device.type)} {seconds:.0f} s in float32, {rounded_seconds:.0f} s in bfloat16;"
    name = "precision" if device == CPU.device else f"precision_{device.type}"
    print(publish(name, told, rows))


if __name__ == "__main__":
    run(main)
