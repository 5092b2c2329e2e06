"""Who competes: for a budget and a mode, each contender names the networks among which validation decides.

All of them are compositions of the zoo's blocks but the controls, and every one is tuned by the same recipe with the
same head. What preselects (a closed form on the training images) and what decides (validation after tuning) sees no
test image.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from benchmarks.fronts.recipes import Recipe, build, costs, lora_rank, random_adapters
from benchmarks.fronts.rows import tuned
from benchmarks.fronts.task import Task
from benchmarks.fronts.truncation import truncation_scores
from reassembly.assembly import Candidate, joined
from reassembly.pipeline import Search
from reassembly.prefix_tree import ScoringData
from reassembly.scoring import score_candidates
from reassembly.settings import Budget, ProxySettings
from zoo.blueprint import BlockSpec
from zoo.errors import UserError

Contender = Callable[[Task, Budget, str], list[Recipe]]


def pick(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """What the project's own search picks under the budget, by its own rule; nothing where nothing fits."""
    return finalists(task, budget, mode)[:1]


def finalists(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """The pick and what the search puts behind it, as many in all as of each rival; validation decides here, too."""
    if (known := task.picks.get((budget, mode))) is not None:
        return known
    settings, longest = replace(task.settings, budget=budget, tuning_mode=mode), task.config.tuning.num_epochs
    search = Search(task.zoo, task.data, settings, store=task.store, seed=task.seed)
    search.chains = task.chains  # loaded and sliced once
    try:
        found = search.run(
            lambda blueprint, epochs: tuned(task, Recipe.of(blueprint), mode, epochs).val_accuracy, longest
        )
    except UserError as error:
        if "no composition" in str(error):
            return task.picks.setdefault((budget, mode), [])
        raise
    first = [search.blueprint(entry, found.descriptions) for entry in found.candidates[1 : task.num_tuned]]
    return task.picks.setdefault((budget, mode), [Recipe.of(recipe) for recipe in (found.blueprint, *first)])


def whole(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """Whole networks of the zoo."""
    return _best_truncations(task, budget, is_whole=True)


def truncated(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """Networks cut off behind any node, the mean over the grid as their features."""
    return _best_truncations(task, budget, is_whole=False)


def with_identity_adapters(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """Whole and truncated networks with adapters at their own cuts, which begin as the identity: Freeze trains them."""
    if mode != "freeze":
        return []
    partition, found = task.catalogue.partition, []
    cuts = dict(zip(partition.networks, partition.cuts, strict=True))
    for recipe in map(_one_piece, truncation_scores(task)):
        (block,) = recipe.blocks
        ends = [0, *(cut for cut in cuts[block.network][1:-1] if cut < block.nodes[1]), block.nodes[1]]
        if len(ends) > 2:
            blocks = tuple(BlockSpec(block.network, pair) for pair in itertools.pairwise(ends))
            found.append(Recipe(blocks, (task.settings.adapter.own_spec(),) * (len(blocks) - 1)))
    return _fitting(task, found, budget)[: task.num_tuned]


def self_stitched(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """The networks of the pick, each alone, with the pick's adapter where the pick has its seam."""
    found = []
    for recipe in pick(task, budget, mode):
        for before, spec, block in zip(recipe.blocks, recipe.adapters, recipe.blocks[1:], strict=False):
            for name, cut in ((before.network, before.nodes[1]), (block.network, block.nodes[0])):
                end = len(task.descriptions[name]) - 1
                if before.network != block.network and 0 < cut < end:
                    found.append(Recipe((BlockSpec(name, (0, cut)), BlockSpec(name, (cut, end))), (spec,)))
    return _fitting(task, list(dict.fromkeys(found)), budget)


def random_assembly(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """One composition of several networks, drawn among all that fit."""
    fitting = [candidate for candidate in task.assemblies if budget.admits(candidate.num_params, candidate.macs)]
    if not fitting:
        return []
    blocks = joined(random.Random(task.seed).choice(fitting).blocks)
    return [Recipe(blocks, (task.settings.adapter.spec(),) * (len(blocks) - 1))]


def control(task: Task, budget: Budget, mode: str, *, what: str) -> list[Recipe]:
    """The pick with something of it random: ``adapters``, its ``early`` blocks, or ``all`` of its weights (scratch)."""
    found = []
    for recipe in pick(task, budget, mode):
        adapters, last = tuple(map(random_adapters, recipe.adapters)), len(recipe.blocks) - 1
        if what == "adapters" and adapters:
            found.append(replace(recipe, adapters=adapters))
        elif what == "early" and last:
            found.append(replace(recipe, random_blocks=tuple(range(last))))
        elif what == "all":
            found.append(replace(recipe, adapters=adapters, random_blocks=tuple(range(last + 1))))
    return found


def low_rank(task: Task, budget: Budget, mode: str) -> list[Recipe]:
    """Whole networks with LoRA, as many trained parameters as the pick has in Freeze or, at rank 1, more."""
    if mode != "freeze" or not (picked := pick(task, budget, mode)):
        return []
    num_trained = tuned(task, picked[0], mode).num_trained
    found = []
    for recipe in whole(task, budget, mode):
        network = build(recipe, task)
        left = num_trained - sum(parameter.numel() for parameter in network.head.parameters())
        found.append(replace(recipe, lora_rank=lora_rank(network.blocks, left)))
    return found


def taught(task: Task, budget: Budget, mode: str, *, students: Contender) -> list[Recipe]:
    """Another contender's networks, taught by the whole network that is best after Full-Tuning, under no budget."""
    if mode != "full":
        return []
    (block,) = best(task, whole(task, Budget(), mode), mode).blocks
    return [replace(recipe, teacher=block.network) for recipe in students(task, budget, mode)]


def selected(task: Task, budget: Budget, mode: str, *, by: str) -> list[Recipe]:
    """The whole network that a score of model selection names, ``home_accuracy`` among them."""
    fitting = _fitting(task, [_whole(task, name) for name in task.zoo], budget)
    if by == "home_accuracy":
        fitting = [recipe for recipe in fitting if task.zoo[recipe.names[0]].accuracy is not None]
        return sorted(fitting, key=lambda recipe: -task.zoo[recipe.names[0]].accuracy.given)[:1]
    if not fitting:
        return []
    data = ScoringData.of(task.zoo, task.search.images, task.settings.proxy.num_images)
    candidates = [Candidate(recipe.blocks, "network", *_pair(task, recipe)) for recipe in fitting]
    scored = score_candidates(candidates, task.chains, data, ProxySettings(name=by, num_draws=1), seed=task.seed)
    known = [entry for entry in scored if math.isfinite(entry.scores[by])]  # LEEP needs a classifier that was learnt
    return [Recipe(entry.candidate.blocks) for entry in known[:1]]


CONTENDERS: Mapping[str, Contender] = {
    "pick": pick,
    "finalists": finalists,
    "whole": whole,
    "truncated": truncated,
    "identity_adapters": with_identity_adapters,
    "random_assembly": random_assembly,
    "self_stitch": self_stitched,
    "random_adapters": partial(control, what="adapters"),
    "random_early_blocks": partial(control, what="early"),
    "random_weights": partial(control, what="all"),
    "lora": low_rank,
    "distillation": partial(taught, students=truncated),
    "taught_pick": partial(taught, students=pick),
    "by_leep": partial(selected, by="leep"),
    "by_logme": partial(selected, by="logme"),
    "by_naswot": partial(selected, by="naswot"),
    "by_home_accuracy": partial(selected, by="home_accuracy"),
}
"""By name. ``random_weights`` under Full-Tuning is training from scratch."""

RIVALS = ("whole", "truncated", "identity_adapters", "random_assembly")
"""Compositions, too: a pick that is below the best of them on validation is an error of the selection."""


def best(task: Task, recipes: list[Recipe], mode: str) -> Recipe:
    """The recipe that is best on validation after tuning; ties go to the smaller loss, then to the earlier one."""
    rows = {recipe: tuned(task, recipe, mode) for recipe in recipes}
    return min(recipes, key=lambda recipe: (-rows[recipe].val_accuracy, rows[recipe].val_loss))


def _whole(task: Task, name: str) -> Recipe:
    return Recipe((BlockSpec(name, (0, len(task.descriptions[name]) - 1)),))


def _one_piece(block: BlockSpec) -> Recipe:
    return Recipe((block,))


def _best_truncations(task: Task, budget: Budget, *, is_whole: bool) -> list[Recipe]:
    recipes = [
        _one_piece(block)
        for block in truncation_scores(task)
        if (block.nodes[1] == len(task.descriptions[block.network]) - 1) == is_whole
    ]
    return _fitting(task, recipes, budget)[: task.num_tuned]


def _fitting(task: Task, recipes: list[Recipe], budget: Budget) -> list[Recipe]:
    return [recipe for recipe in recipes if budget.admits(*_pair(task, recipe))]


def _pair(task: Task, recipe: Recipe) -> tuple[int, int]:
    found = costs(recipe, task)
    return found.num_params, found.macs
