"""Replacement: ``python -m studies.replacement``. Does similarity foretell what a block is worth in another's place?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise, product
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.fronts.task import Task
from figures.style import KINDS, ORIGINS, PICK, new_figure, number, tidy
from reassembly.assembly import partition_blocks
from reassembly.block_cache import BlockCache
from reassembly.home_features import HomeFeatures
from reassembly.network import boundary
from studies.correlation import Tau, kendall
from studies.study import OF_PICKS, Rows, Study, recipe_of, test_accuracy
from zoo.arguments import run
from zoo.blueprint import BlockSpec
from zoo.errors import UserError
from zoo.stitching.adapters import closed_form_adapter

CLAIM = (
    "a block of a network can be replaced by a block of another one: the more similar it is, and the nearer its depth, "
    "the better (stages 3 and 4 of ResNet-50 on ImageNet, Freeze-Tuned for 20 epochs)"
)


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """Every block of the base network replaced by every block of every other one, at every position."""
    probes, errors = task.similarity("probe_kl"), SeamErrors(task)
    partition, mode = task.catalogue.partition, arguments.mode
    base = arguments.base or partition.networks[0]
    if base not in partition.networks:
        raise UserError(f"--base {base}: allowed are {', '.join(partition.networks)}")
    stages = partition_blocks(dict(zip(partition.networks, partition.cuts, strict=True)))
    own = [next(block for block in stage if block.network == base) for stage in stages]
    whole = test_accuracy(task, recipe_of(task, own), mode)
    rows = []
    for original, depth in product(range(len(own)), repeat=2):
        for block in stages[depth]:
            if block.network == base or (original > 0) != (block.nodes[0] > 0):
                continue  # only a first block brings a stem
            blocks = [*own[:original], block, *own[original + 1 :]]
            rows.append(
                {
                    "base": base,
                    "position": original,
                    "depth": depth,
                    "block": f"{block.network}[{block.nodes[0]}:{block.nodes[1]}]",
                    "similarity": of_ends(task, task.catalogue.similarity, block, own[original]),
                    "probe_similarity": of_ends(task, probes, block, own[original]),
                    "adapter_error": errors.of(blocks),
                    "accuracy": test_accuracy(task, recipe_of(task, blocks), mode),
                    "accuracy_of_base": whole,
                }
            )
    return rows


class SeamErrors:
    """What adapters in closed form leave unexplained between what two networks have at home."""

    def __init__(self, task: Task) -> None:
        self.task, self.adapter = task, task.settings.adapter.spec()
        blocks, batch_size = BlockCache(task.chains), task.settings.proxy.batch_size
        self.home = HomeFeatures(blocks, task.search.images_for, self.adapter.kind, batch_size)
        self._known: dict[tuple[BlockSpec, BlockSpec], float] = {}

    def of(self, blocks: Sequence[BlockSpec]) -> float:
        """Mean over the seams of a composition: cross-validated share of the variance, 1x1 adapters; 0 is exact."""
        return round(fmean(self._seam(*pair) for pair in pairwise(blocks) if not pair[1].continues(pair[0])), 6)

    def _seam(self, before: BlockSpec, block: BlockSpec) -> float:
        if (before, block) not in self._known:
            source, target = boundary(before, block, self.task.chains)
            end = before.nodes[1]
            given, wanted = self.home.features(BlockSpec(before.network, (end, end + 1))), self.home.features(block)
            kind, seed = self.adapter.kind, self.task.seed
            fit = closed_form_adapter(source, target, given, wanted, kind=kind, kernel_size=1, seed=seed)
            self._known[before, block] = fit.error
        return self._known[before, block]


def of_ends(task: Task, similarity: Tensor, block: BlockSpec, other: BlockSpec) -> float:
    """Of what comes in and what goes out, from 0 to 2; what comes into a first block is what its stem gives."""
    first, start = {}, 0
    for name, description in task.descriptions.items():
        first[name], start = start, start + len(description) - 1
    ends = [[first[b.network] + max(cut - 1, 0) for cut in b.nodes] for b in (block, other)]
    return round(sum(float(similarity[a, b]) for a, b in zip(*ends, strict=True)), 6)


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """Tau of similarity within each position, of all positions together, and of the distance in depth."""
    groups = [(row["seed"], row["position"]) for row in rows]
    named = [str(group) for group in groups]
    accuracies = [row["accuracy"] for row in rows]
    together, probes = (
        kendall([row[name] for row in rows], accuracies, named) for name in ("similarity", "probe_similarity")
    )
    errors = kendall([-row["adapter_error"] for row in rows], accuracies, named)
    depth = kendall([-abs(row["depth"] - row["position"]) for row in rows], accuracies, named)
    by_position: dict[int, Tau] = {}
    for position in sorted({row["position"] for row in rows}):
        own = [row for row in rows if row["position"] == position]
        columns = ([row[key] for row in own] for key in ("similarity", "accuracy", "seed"))
        by_position[position] = kendall(*columns)
    summary = {
        "similarity": asdict(together),
        "probe_similarity": asdict(probes),
        "adapter_error": asdict(errors),
        "nearness_of_depth": asdict(depth),
        "by_position": {str(position): asdict(tau) for position, tau in by_position.items()},
    }
    each = ", ".join(f"{position + 1}: {tau}" for position, tau in by_position.items())
    text = (
        f"tau of similarity with accuracy within a position {together} (by position {each}), of that of probes' answers"
    )
    text += f" (probe_kl) {probes}, of what adapters in closed form explain {errors}, of nearness in depth {depth}"
    return summary, f"{text}; {len(rows)} replacements"


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Accuracy against similarity, a colour for each position."""
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    tidy(axes)
    shapes = [style["marker"] for style in KINDS.values()]
    for position in sorted({row["position"] for row in rows}):
        own = [row for row in rows if row["position"] == position]
        tau = summary["by_position"][str(position)]["tau"]
        axes.scatter(
            [row["similarity"] for row in own],
            [100 * row["accuracy"] for row in own],
            color=ORIGINS[position % len(ORIGINS)],
            marker=shapes[position % len(shapes)],
            label=f"block {position + 1}: tau {'none' if tau is None else number(tau)}",
        )
    base = 100 * sum(row["accuracy_of_base"] for row in rows) / len(rows)
    axes.axhline(base, color=PICK, linewidth=1.2, label="the base network")
    axes.set_xlabel("similarity to the block it replaces, from 0 to 2")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"{rows[0]['base']} with one block of another network", loc="left")
    axes.legend(frameon=False, fontsize=9)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Which network, tuned how."""
    parser.add_argument("--base", help="network whose blocks are replaced; default: the first of the zoo")
    parser.add_argument("--mode", choices=("probe", "freeze", "full"), default="freeze")


STUDY = Study("replacement", CLAIM, measure, conclude, draw, options, unread=(*OF_PICKS, "proxy"))

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
