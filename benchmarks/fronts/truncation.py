"""Every network cut off behind each of its nodes, scored in closed form from one pass of the training images."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from benchmarks.fronts.task import Task
from tuning.ridge import fit_ridge
from zoo.blueprint import BlockSpec
from zoo.chain import Chain
from zoo.chain.batches import Taps, run_in_batches
from zoo.chain.signals import pool
from zoo.storage.store import StageResult


def truncation_scores(task: Task) -> dict[BlockSpec, float]:
    """Leave-one-out squared error of the ridge head on every truncated and whole network, the best first."""
    limit = task.settings.proxy.num_images

    def compute() -> StageResult:
        rows = []
        for name in task.zoo:
            images, labels = task.data.images("train", task.zoo[name].input, limit)
            for stop, features in features_behind_nodes(task.chains[name], images).items():
                rows.append([name, stop, fit_ridge(features, labels, task.data.num_classes).loo_mse])
        return StageResult(values=rows)

    inputs = {"limit": limit, **task.key(list(task.zoo))}
    rows = task.store.fetch("fronts_truncations", inputs, compute).values
    return {BlockSpec(name, (0, stop)): error for name, stop, error in sorted(rows, key=lambda row: row[2])}


def features_behind_nodes(chain: Chain, images: Tensor) -> dict[int, Tensor]:
    """By number of nodes, the features (n, d) of a network cut off there; its own neck gives those of all of it.

    Args:
        chain: Of the network.
        images: (n, C, H, W) as it takes them.
    """
    last = len(chain) - 1
    pieces = [chain.block(index, index + 1) for index in range(last)]
    reads = [partial(pool, signal=chain.signal(stop)) for stop in range(1, last)]
    found = run_in_batches(Taps(pieces, [*reads, chain.neck()]), images, batch_size=64)
    return dict(zip(range(1, last + 1), found, strict=True))
