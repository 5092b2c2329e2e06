"""Rows: what tuning a network gave, each stored as soon as it is known, under everything that it depends on.

Choices see validation figures alone. The test images of a network are read when it has been chosen, once: what it makes
of them is a row of its own.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fronts.recipes import Recipe, build
from benchmarks.fronts.task import Task
from reassembly.network import AssembledNetwork, home_reference
from tuning.fit import tune
from tuning.network import TunableNetwork
from tuning.reference import Reference
from tuning.settings import TuningSettings
from zoo.blueprint import BlockSpec
from zoo.chain.batches import run_in_batches
from zoo.chain.costs import count
from zoo.storage.records import from_plain, to_plain
from zoo.storage.store import StageResult


@dataclass(frozen=True)
class Row:
    """A tuned network, without any figure of the test split.

    Attributes:
        choice: What tuning kept: ``start``, ``tuned``, ``refitted``, ...
        val_accuracy: Of that, in [0, 1].
        val_loss: Likewise.
        num_trained: Parameters that the mode trains.
        head_inputs: What its head reads in the end.
        seconds: Wall time of tuning.
    """

    choice: str
    val_accuracy: float
    val_loss: float
    num_trained: int
    head_inputs: str
    seconds: float


def tuned(task: Task, recipe: Recipe, mode: str, num_epochs: int | None = None) -> Row:
    """Tunes the network of a recipe, or takes what an earlier call stored.

    Args:
        task: The split.
        recipe: Of the network.
        mode: ``probe``, ``freeze`` or ``full``.
        num_epochs: Other than ``task.config.tuning.num_epochs``.
    """
    found = _fetch(task, recipe, mode, num_epochs)
    return from_plain(Row, found.values, "row")


def hits(task: Task, recipe: Recipe, mode: str) -> Tensor:
    """Which test images the tuned network gets right, bool (n,), in the order of the split; for what is chosen only."""

    def compute() -> StageResult:
        return StageResult({"hits": hits_of(task, recipe, restored(task, recipe, mode), "test")})

    return task.store.fetch("fronts_test", _key(task, recipe, mode, None), compute).tensors["hits"]


def hits_of(task: Task, recipe: Recipe, network: TunableNetwork, split: str) -> Tensor:
    """Which images of a split a network gets right that was built by the recipe, bool (n,)."""
    images = task.data.image_batches(split, task.zoo[recipe.blocks[0].network].input, batch_size=64)
    on_gpu = task.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    logits = run_in_batches(network, images, batch_size=64, device="cuda" if on_gpu else "cpu")
    return logits.argmax(1) == task.data.labels(split)


def _fetch(task: Task, recipe: Recipe, mode: str, num_epochs: int | None) -> StageResult:
    def compute() -> StageResult:
        network, start = build(recipe, task), time.perf_counter()
        task.data.use_input(task.zoo[recipe.blocks[0].network].input)
        config, settings = task.config, _settings(task, mode, num_epochs)
        if settings.warmup != "none" and not (recipe.adapters and isinstance(network, AssembledNetwork)):
            settings = replace(settings, warmup="none")  # no adapter to warm up
        home = home_reference(network, task.chains, task.zoo) if settings.warmup != "none" else None
        with tempfile.TemporaryDirectory() as directory:
            result = tune(
                network,
                task.data,
                settings,
                optimizer=config.optimizer,
                schedule=config.schedule,
                trainer=config.trainer,
                run_dir=Path(directory),
                seed=task.seed,
                teacher=_teacher(task, recipe.teacher) if recipe.teacher else None,
                home=home,
                test=False,
            )
        accuracy, loss = result.val_accuracies[result.choice], result.val_losses[result.choice]
        seconds = round(time.perf_counter() - start, 2)
        row = Row(result.choice, accuracy, loss, result.num_trained_parameters, network.head_inputs, seconds)
        state = {name: tensor.detach().clone() for name, tensor in network.trained_state().items()}
        return StageResult(state, to_plain(row))

    return task.store.fetch("fronts_tuned", _key(task, recipe, mode, num_epochs), compute)


def _settings(task: Task, mode: str, num_epochs: int | None) -> TuningSettings:
    changes: dict[str, Any] = {"mode": mode}
    if mode == "probe":
        changes["num_epochs"] = 0
    elif num_epochs is not None:
        changes["num_epochs"] = num_epochs
    return replace(task.config.tuning, **changes)


def _key(task: Task, recipe: Recipe, mode: str, num_epochs: int | None) -> dict[str, Any]:
    return {"recipe": to_plain(recipe), "tuning": _settings(task, mode, num_epochs), **task.key(recipe.names)}


def restored(task: Task, recipe: Recipe, mode: str) -> TunableNetwork:
    """The tuned network, built anew, in eval mode."""
    network = build(recipe, task)
    found = _fetch(task, recipe, mode, None)
    if network.head_inputs != (inputs := from_plain(Row, found.values, "row").head_inputs):
        network.read(inputs)
    network.freeze(mode, norm_stats="frozen")
    state = found.tensors
    with torch.no_grad():
        for name, tensor in network.trained_state().items():
            tensor.copy_(state[name])
    return network.eval()


def _teacher(task: Task, name: str) -> Reference:
    """The whole network of that name, fully tuned on the same images."""
    whole = Recipe((BlockSpec(name, (0, len(task.descriptions[name]) - 1)),))
    network, spec = restored(task, whole, "full"), task.zoo[name].input
    network.requires_grad_(False)
    return Reference(name, network, spec, count(network, spec.example()), tuple(task.data.class_names))
