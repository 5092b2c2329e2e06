"""Branching: ``python -m studies.branching``. Are two tails behind a shared prefix worth more than one tail?"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fronts.contenders import pick
from benchmarks.fronts.recipes import Recipe, costs
from benchmarks.fronts.rows import restored, tuned
from benchmarks.fronts.task import Task
from figures.style import ORIGINS, number
from reassembly.assembly import Candidate, joined
from reassembly.block_cache import BlockCache
from reassembly.home_features import HomeFeatures
from reassembly.prefix_tree import PathOutput, PrefixTree, ScoringData, walked_blocks
from reassembly.proxies.ridge_cuts import ridge_cuts_score
from reassembly.settings import Budget, ProxySettings
from studies.bars import bar_chart, interval_of, told
from studies.study import Rows, Study, test_accuracy
from tuning.ridge import fit_ridge
from zoo.arguments import positive, run
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain.batches import run_in_batches
from zoo.description import ChainDescription

CLAIM = (
    "no article's: networks that begin with the same frozen blocks can share these, and one head can read both ends; "
    "such a branching network could be worth more than what has one tail under the same budget"
)


@dataclass(frozen=True)
class Tail:
    """A composition as one of two branches.

    Attributes:
        candidate: The whole of it, prefix included.
        features: Pooled behind every block on the probe images, untuned, by network and end of the block.
        num_params: Without a head.
    """

    candidate: Candidate
    features: Mapping[tuple[str, int], Tensor]
    num_params: int

    @property
    def trunk(self) -> BlockSpec:
        """What runs before its first adapter."""
        return joined(self.candidate.blocks)[0]


@dataclass(frozen=True)
class Branching:
    """Two tails, and what they share.

    Attributes:
        tails: Whose trunks are of one network, or of two: then they have the image in common alone.
        own: Of the second tail, the blocks behind which its features are its own.
        features: Of both, behind every block, those that are shared once; (n, D).
        num_params: Shared ones once, with a head that reads all of ``features``.
    """

    tails: tuple[Tail, Tail]
    own: tuple[tuple[str, int], ...]
    features: Tensor
    num_params: int

    def __str__(self) -> str:
        return " | ".join(tail.candidate.composition for tail in self.tails)


class _Features(PrefixTree):
    """A walk that keeps the features which a score would look at."""

    def scores_of(self) -> dict[Candidate, dict[tuple[str, int], Tensor]]:
        """Of every candidate, pooled behind every block."""
        self.kept: dict[Candidate, dict[tuple[str, int], Tensor]] = {}
        for _ in self.scores():
            pass
        return self.kept

    def score(self, candidate: Candidate, output: PathOutput | None) -> dict[str, float]:
        """Keeps features; there is no score."""
        if output is not None:
            last = walked_blocks(candidate)[-1]
            end = self.apply(self.blocks.neck(last), output)
            inner = {(b.network, b.nodes[1]): output.pooled[b.network, b.nodes[1]] for b in candidate.blocks[:-1]}
            found = {**inner, (last.network, last.nodes[1]): end.features}
            if all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
                self.kept[candidate] = found
        return {"ridge_cuts": 0.0}


def measure(task: Task, arguments: argparse.Namespace) -> Rows:
    """Under every budget the search's pick and the branching that the closed form prefers, both Freeze-Tuned."""
    data = ScoringData.of(task.zoo, task.search.images, task.settings.proxy.num_images)
    tails, rows = _tails(task, data, max(arguments.limits)), []
    for limit in arguments.limits:
        found = _branchings(task, tails, limit, arguments.shortlist, data.labels)
        picked = pick(task, Budget(max_params=limit), "freeze")
        if not found or not picked:
            continue
        single, best = picked[0], found[0]
        val, test = _tuned(task, best)
        rows.append(
            {
                "limit": limit,
                "single": str(single),
                "single_num_params": costs(single, task).num_params,
                "single_val": tuned(task, single, "freeze").val_accuracy,
                "single_test": test_accuracy(task, single, "freeze"),
                "branching": str(best),
                "branching_num_params": best.num_params,
                "branching_val": val,
                "branching_test": test,
            }
        )
        row = rows[-1]
        row["chosen_test"] = row["branching_test" if val > row["single_val"] else "single_test"]
        row["gain"] = row["branching_test"] - row["single_test"]
        row["gain_of_choice"] = row["chosen_test"] - row["single_test"]
    return rows


def _tails(task: Task, data: ScoringData, limit: int) -> list[Tail]:
    """All compositions under the budget with their untuned features, adapters solved in closed form."""
    budget = Budget(max_params=limit)
    candidates = [entry.candidate for entry in task.catalogue.candidates]
    candidates = [c for c in candidates if not c.is_adapted and budget.admits(c.num_params, c.macs)]
    settings = ProxySettings(name="ridge_cuts", adapters="closed_form")
    adapter = AdapterSpec(task.settings.adapter.kind, 1)
    home = HomeFeatures(BlockCache(task.chains), data.images_for, adapter.kind, settings.batch_size)
    kept = _Features(candidates, data, home, settings, adapter, task.seed).scores_of()
    num_classes = task.data.num_classes
    return [
        Tail(candidate, features, candidate.num_params - _head(list(features.values())[-1].shape[1], num_classes))
        for candidate, features in kept.items()
    ]


def _head(num_features: int, num_classes: int) -> int:
    return (num_features + 1) * num_classes


def _branchings(task: Task, tails: Sequence[Tail], limit: int, shortlist: int, labels: Tensor) -> list[Branching]:
    """Pairs within the budget, best first by leave-one-out; of single tails the best by it are paired."""
    num_classes = task.data.num_classes
    fitting = [tail for tail in tails if tail.num_params < limit]
    worth = {tail.candidate: ridge_cuts_score(_joined(tail.features), labels, num_classes) for tail in fitting}
    by_worth = sorted(fitting, key=lambda tail: -worth[tail.candidate])
    small = [tail for tail in by_worth if tail.num_params <= limit / 2]
    paired = list({id(tail): tail for tail in [*by_worth[:shortlist], *small[:shortlist]]}.values())
    found = []
    for one, other in itertools.combinations(paired, 2):
        branching = _joint(one, other, task.descriptions, num_classes)
        if branching is not None and branching.num_params <= limit:
            found.append((ridge_cuts_score(branching.features, labels, num_classes), branching))
    return [branching for _, branching in sorted(found, key=lambda pair: -pair[0])]


def _joined(features: Mapping[tuple[str, int], Tensor]) -> Tensor:
    return torch.cat(list(features.values()), 1)


def _joint(one: Tail, other: Tail, descriptions: Mapping[str, ChainDescription], num_classes: int) -> Branching | None:
    """Two tails as one network; None where one of them is the beginning of the other."""
    end = min(one.trunk.nodes[1], other.trunk.nodes[1]) if one.trunk.network == other.trunk.network else 0
    if end and any(joined(tail.candidate.blocks) == (BlockSpec(one.trunk.network, (0, end)),) for tail in (one, other)):
        return None
    seen = {key for key in one.features if key[0] == one.trunk.network and key[1] <= end}
    own = tuple(key for key in other.features if key not in seen)
    features = torch.cat([*one.features.values(), *(other.features[key] for key in own)], 1)
    num_params = one.num_params + other.num_params + _head(features.shape[1], num_classes)
    if end:
        num_params -= descriptions[one.trunk.network].block_costs(0, end).num_params
    return Branching((one, other), own, features, num_params)


def _tuned(task: Task, branching: Branching) -> tuple[float, float]:
    """Validation and test accuracy of a solved head on both tails, which were Freeze-Tuned one by one.

    Their shared blocks are frozen, so that they are the same in both.
    """
    columns: dict[str, list[Tensor]] = {split: [] for split in ("train", "val", "test")}
    for tail in branching.tails:
        blocks = tail.candidate.blocks
        seam = task.settings.adapter.spec()
        adapters = [AdapterSpec("none") if b.continues(a) else seam for a, b in itertools.pairwise(blocks)]
        recipe = Recipe(blocks, tuple(adapters))
        tuned(task, recipe, "freeze")
        network, spec = restored(task, recipe, "freeze"), task.zoo[blocks[0].network].input
        if len(blocks) > 1:
            network.read("all_cuts")
        kept = branching.own if tail is branching.tails[1] else tuple(tail.features)
        sizes = [tensor.shape[1] for tensor in tail.features.values()]
        for split, found in columns.items():
            images = task.data.images(split, spec)[0]
            rows = run_in_batches(nn.Sequential(*network.stages()), images, batch_size=100)
            pieces = dict(zip(tail.features, rows.split(sizes, 1), strict=True))
            found += [pieces[key] for key in kept]
    features = {split: torch.cat(found, 1) for split, found in columns.items()}
    fit = fit_ridge(features["train"], task.data.labels("train"), task.data.num_classes)
    weight, bias = fit.weight.float(), fit.bias.float()
    val, test = (
        (F.linear(features[split], weight, bias).argmax(1) == task.data.labels(split)).float().mean().item()
        for split in ("val", "test")
    )
    return round(val, 6), round(test, 6)


def conclude(rows: Rows) -> tuple[Mapping[str, Any], str]:
    """Both by budget, the difference, and the difference where validation decides between them."""
    summary, parts = {}, []
    for limit in sorted({row["limit"] for row in rows}):
        own = [row for row in rows if row["limit"] == limit]
        columns = ("single_test", "branching_test", "gain", "gain_of_choice")
        found = {column: asdict(interval_of(own, column)) for column in columns}
        summary[str(limit)] = found
        parts.append(
            f"{number(limit)} parameters: one tail {told(found['single_test'])}, two {told(found['branching_test'])}, "
            f"difference {told(found['gain'])}, where validation decides {told(found['gain_of_choice'])}"
        )
    return summary, "; ".join(parts)


def draw(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Bars by budget."""
    names = {"one tail: the search's pick": "single_test", "two tails": "branching_test"}
    groups = {
        name: {number(int(limit)): found[column] for limit, found in summary.items()} for name, column in names.items()
    }
    figure = bar_chart(groups, ORIGINS, "Two tails behind a shared prefix, Freeze-Tuned")
    figure.axes[0].set_xlabel("budget in parameters")
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Budgets, and how many tails are paired."""
    parser.add_argument("--limits", type=positive, nargs="+", default=[120_000, 200_000], help="parameters")
    parser.add_argument(
        "--shortlist", type=positive, default=40, help="tails that are paired, and as many of half the budget"
    )


STUDY = Study("branching", CLAIM, measure, conclude, draw, options)

if __name__ == "__main__":
    run(STUDY.main, goes_on=True)
