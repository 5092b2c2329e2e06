"""Tuning from start to end: solve the head, train, solve it again, keep what is best on validation, test once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tuning.all_cuts import refit_on_all_cuts, refits_on_all_cuts
from tuning.averaging import mean_state
from tuning.checkpoints import BEST, LAST, Checkpoints
from tuning.curves import Curves, Row, log_row
from tuning.data import IndexedData, TuningData, TuningInputs, check_data, prepare_inputs
from tuning.distributed import start_processes, take_from_main
from tuning.evaluation import Candidate, Evaluation
from tuning.feature_matching import check_warmup, match_features
from tuning.first_epoch import FirstEpoch
from tuning.heads import NUM_CALIBRATION_IMAGES, join_rows
from tuning.module import TuningModule
from tuning.network import TunableNetwork
from tuning.norm_stats import choose_norm_stats, has_norm_stats, measure_norm_stats
from tuning.optimizers import check_optimizer
from tuning.outcomes import Outcomes, OutcomesCollector
from tuning.parameter_groups import ParameterGroup, parameter_groups, table
from tuning.reference import Reference, bytes_to_keep, teacher_outputs
from tuning.settings import OptimizerSettings, Recipe, ScheduleSettings, TrainerSettings, TuningSettings
from tuning.sharding import mesh_of, passes_in_shards
from tuning.solving import leave_one_out_head, solve_head
from tuning.stopping import StopEarly
from tuning.trainer import build_trainer, quiet
from zoo.chain.modes import float32_products
from zoo.errors import UserError

log = logging.getLogger(__name__)

State = dict[str, Tensor]
Loggers = Sequence[pl.loggers.Logger]

LOO_MAX_IMAGES = 2000
"""Above this many training images ``tuning.loss=auto`` is cross-entropy: a step of ``loo`` costs O(n d min(n, d))."""


@dataclass(frozen=True)
class TuningResult:
    """What tuning gave.

    Attributes:
        choice: ``start``, ``tuned`` (the best epoch), ``refitted`` (the last, with a head solved anew), ``averaged``
            (the mean of the kept epochs), or ``all_cuts`` (the best of these, with a head on the features of all cuts)
            and ``start_all_cuts`` (the start with one).
        val_accuracies: Of every candidate, by the same names.
        val_losses: Mean cross-entropy of every candidate.
        test_accuracy: Of the choice, measured once; None where the test split was left out.
        test_loss: Mean cross-entropy of the choice.
        outcomes: What the choice made of every test image, measured along with these.
        loss: The loss that was minimised, ``none`` where nothing was trained.
        norm_stats: The rule of the normalisation statistics, ``none`` where nothing was trained.
        num_parameters: Of the network.
        num_trained_parameters: Of what the mode trains.
        num_head_images: Training images that closed-form heads were solved on, or would have been.
        epochs: Passes over the training images, fewer than asked for where training stopped early.
        curves: Of the start and after every epoch: ``epoch``, ``val/loss``, ``val/accuracy``, and what ``Curves`` logs.
        seconds: Wall time per phase.
        parameter_groups: ``name``, ``num_parameters``, ``learning_rate`` and ``weight_decay`` of what was trained.
    """

    choice: str
    val_accuracies: dict[str, float]
    val_losses: dict[str, float]
    test_accuracy: float | None
    test_loss: float | None
    outcomes: Outcomes | None
    loss: str
    norm_stats: str
    num_parameters: int
    num_trained_parameters: int
    epochs: int
    curves: list[Row]
    num_head_images: int
    seconds: dict[str, float]
    parameter_groups: list[dict[str, str | int | float]]


def tune(
    network: TunableNetwork,
    data: TuningData,
    tuning: TuningSettings,
    *,
    run_dir: Path,
    optimizer: OptimizerSettings | None = None,
    schedule: ScheduleSettings | None = None,
    trainer: TrainerSettings | None = None,
    seed: int = 0,
    loggers: Loggers = (),
    callbacks: Sequence[pl.Callback] = (),
    identity: Mapping[str, str] | None = None,
    learnt: bool = False,
    learnt_rows: Sequence[int] = (),
    teacher: Reference | None = None,
    home: Reference | None = None,
    resume: bool = False,
    test: bool = True,
) -> TuningResult:
    """Tunes a network in place and leaves it on the CPU, in eval mode, with the chosen weights.

    Args:
        network: Its head must be for the classes of the data.
        data: Gives images for the network's input.
        run_dir: Checkpoints go to ``run_dir/checkpoints``; those of an earlier training there are removed.
        seed: Fixes dropout and mixing; the order of images and their augmentation belong to the data module.
        loggers: Receive the metrics of every epoch.
        callbacks: For Lightning's trainer, besides checkpoints.
        identity: What the numbers depend on (settings, data, networks), by name. It goes into every checkpoint, and
            ``resume`` goes on with checkpoints of the same identity only.
        learnt: The head is learnt already (of a bundle, or solved by the caller): the start is the network as it is,
            unless ``tuning.head.initialisation=ridge`` asks for a head solved anew.
        learnt_rows: Rows of the head that are learnt already, where others are not: the start keeps them and solves
            the others, with the same exception.
        teacher: A frozen network whose logits the loss follows besides the labels, by names of classes.
        home: With ``tuning.warmup=feature_matching``: the tail's own network up to the features that the head reads.
        resume: Continue from the last checkpoint in ``run_dir``, to the numbers of a run without interruption; where
            there is none yet, from the start.
        test: Measure the choice on the test split; ``False`` leaves that split unseen and the figures None.

    Raises:
        UserError: The head does not fit the data, the settings contradict each other, the checkpoints are damaged or
            of another identity, the training diverges.
    """
    check_data(data, network, test=test)
    settings = (optimizer or OptimizerSettings(), schedule or ScheduleSettings(), trainer or TrainerSettings())
    recipe = Recipe(tuning, *settings, seed)
    check_optimizer(recipe.optimizer, recipe.schedule)
    if tuning.warmup != "none":
        check_warmup(network, tuning, learnt=learnt)
    if teacher is not None:
        teacher.columns(data.class_names)
    checkpoints = Checkpoints(Path(run_dir) / "checkpoints", identity or {}, tuning.checkpoints)
    resumed = checkpoints.resumable(in_shards=recipe.trainer.strategy == "fsdp2") if resume else None
    clock = _Clock()
    rows = list(learnt_rows) if tuning.head.initialisation == "auto" else []
    asked = network.head_inputs
    is_complete = data.num_images("train") <= (tuning.head.max_images or data.num_images("train"))
    is_kept = bool(rows) or (learnt and tuning.head.initialisation != "ridge")
    widens = refits_on_all_cuts(network, tuning, learnt=is_kept, is_complete=is_complete)
    if asked == "auto" or widens:
        network.read("last", network.head if asked == "auto" else None)
    kept = [tensor.detach().clone() for tensor in (network.head.weight[rows], network.head.bias[rows])]
    with quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())), ExitStack() as stack:
        stack.enter_context(float32_products(tf32=recipe.trainer.tf32))
        torch.manual_seed(seed)  # Lightning's loaders draw their workers' seeds from it
        network.freeze(tuning.mode, norm_stats="frozen")
        num_trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        evaluation = Evaluation(network, recipe, build_trainer(recipe.trainer, checkpoints.directory))
        device = evaluation.trainer.strategy.root_device
        with clock("start"):
            start_processes(evaluation.trainer)
            stack.enter_context(passes_in_shards(mesh_of(evaluation.trainer.strategy)))
            take_from_main(network.state_dict().values(), device)
            reserved = _reference_bytes(network, data, teacher, home if tuning.warmup != "none" else None)
            inputs = prepare_inputs(network, data, tuning, device, reserved_bytes=reserved)
            if tuning.warmup != "none":
                assert home is not None, "tuning.warmup needs the tail's own network"
                match_features(network, inputs, data, home, recipe, checkpoints.directory, device)
            solved = solve_head(network, inputs, device) if _solves_start(tuning, learnt=learnt) else None
            if solved and rows:
                few = inputs.features("train", device, NUM_CALIBRATION_IMAGES)
                join_rows(network.head, rows, *kept, few, inputs.labels["train"][: len(few)])
            start = evaluation.candidate("start", inputs)
            curves: list[Row] = [{"epoch": 0, "val/loss": start.val_loss, "val/accuracy": start.val_accuracy}]
            log_row(loggers, curves[0], step=0)
        groups: list[ParameterGroup] = []
        candidates, loss, norm_stats = [start], _resolve_loss(network, inputs, tuning), "none"
        widened = partial(
            refit_on_all_cuts,
            *(network, inputs, partial(prepare_inputs, network, data, tuning, device, reserved_bytes=reserved)),
            *(partial(solve_head, device=device), evaluation),
            is_asked=asked == "all_cuts",
        )
        opening = None
        if loss != "none":
            recipe = replace(recipe, optimizer=recipe.optimizer.for_loss(loss))
            if widens and tuning.guard:
                with clock("all cuts"):
                    opening = widened("start_all_cuts")
                    _restore(network, start.state)
            with clock("fit"):
                resumed = checkpoints.agree(resumed)
                if resumed:
                    norm_stats = resumed["norm_stats"]
                    inputs.loaders.start_at(resumed["epoch"], resumed["batch"])
                else:
                    norm_stats = _resolve_norm_stats(network, inputs, tuning, loss, device)
                checkpoints.norm_stats = norm_stats
                head = None
                if loss == "loo":
                    head = leave_one_out_head(*(solved or solve_head(network, inputs, device)))
                network.freeze(tuning.mode, norm_stats=norm_stats)

                def features(body: nn.Module) -> Tensor:
                    return replace(inputs, body=body).features("train", device)

                taught = teacher_outputs(teacher, data, tuning, device) if teacher is not None else None
                module = TuningModule(
                    network, inputs.body, recipe, leave_one_out=head, features=features, teacher=taught
                )
                groups = parameter_groups(network, recipe.optimizer)
                for line in table(groups):
                    log.info("%s", line)
                numbers = {"num_images": len(inputs.labels["val"]), "num_classes": network.head.out_features}
                watch = FirstEpoch(start.val_accuracy, start.val_loss, recipe=recipe, **numbers)
                curves += _fit(
                    module, inputs, recipe, checkpoints, loggers, [*callbacks, watch], resume=resumed is not None
                )
            with clock("refit"):
                _restore(network, checkpoints.state(BEST))
                best = min(
                    curves[1:], key=lambda row: -row["val/accuracy"]
                )  # the first of equals, as in the checkpoint
                candidates.append(evaluation.measured("tuned", best["val/accuracy"], best["val/loss"]))
                if tuning.head.refit == "always" or (tuning.head.refit == "auto" and inputs.complete):
                    _restore(network, checkpoints.state(LAST))
                    solve_head(network, inputs, device)
                    candidates.append(evaluation.candidate("refitted", inputs))
                if tuning.checkpoints.average:
                    _restore(network, mean_state(map(checkpoints.state, checkpoints.kept)))
                    if norm_stats == "adaptive":
                        measure_norm_stats(network, tuning.mode, inputs, device)
                    if loss == "loo":  # whose head is never trained, but solved
                        solve_head(network, inputs, device)
                    candidates.append(evaluation.candidate("averaged", inputs))
        chosen = candidates[-1]
        if tuning.guard:
            chosen = min(candidates, key=_rank)
        _restore(network, chosen.state)
        if widens:
            with clock("all cuts"):
                found = [opening]
                if loss == "none" or not tuning.guard or chosen is not start:  # else the opening is just that
                    found.append(widened("all_cuts", is_flattered=loss != "none" and tuning.guard))
                found = [candidate for candidate in found if candidate is not None]
                candidates += found
                is_asked = found and (asked == "all_cuts" or not tuning.guard)
                kept = min(found if is_asked else [chosen, *found], key=_rank)
                if kept is not chosen:
                    network.read("all_cuts")
                chosen = kept
                _restore(network, chosen.state)
        test_accuracy = test_loss = outcomes = None
        if test:
            with clock("test"):
                body = nn.Sequential(*network.stages())
                collector = OutcomesCollector(network.head.out_features)
                test_accuracy, test_loss = evaluation.measure("test", body, IndexedData(data), collector)
                outcomes = collector.gathered()
    network.cpu().eval()
    return TuningResult(
        choice=chosen.name,
        val_accuracies={candidate.name: candidate.val_accuracy for candidate in candidates},
        val_losses={candidate.name: candidate.val_loss for candidate in candidates},
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        outcomes=outcomes,
        loss=loss,
        norm_stats=norm_stats,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_trained_parameters=num_trained,
        num_head_images=len(inputs.labels["train"]),
        epochs=len(curves) - 1,
        curves=curves,
        seconds=clock.seconds,
        parameter_groups=[group.record() for group in groups],
    )


def _rank(candidate: Candidate) -> tuple[float, float]:
    """By which the best on validation comes first."""
    return -candidate.val_accuracy, candidate.val_loss


def _fit(
    module: TuningModule,
    inputs: TuningInputs,
    recipe: Recipe,
    checkpoints: Checkpoints,
    loggers: Loggers,
    callbacks: Sequence[pl.Callback],
    *,
    resume: bool,
) -> list[Row]:
    """Trains by gradient from the network's present state, or from the last checkpoint; the result lies in these.

    Returns:
        What the epochs gave.
    """
    if not resume:
        checkpoints.clear()
    tuning, curves = recipe.tuning, Curves(recipe.trainer.log_every_num_steps)
    stops = [StopEarly(tuning.early_stopping)] if tuning.early_stopping.patience else []
    trainer = build_trainer(
        recipe.trainer,
        checkpoints.directory,
        max_epochs=tuning.num_epochs,
        gradient_clip_norm=recipe.optimizer.gradient_clip_norm,
        loggers=loggers,
        callbacks=[*callbacks, curves, *stops, checkpoints],
    )
    module.network.train()
    trainer.fit(module, datamodule=inputs.loaders, ckpt_path=checkpoints.directory / LAST if resume else None)
    return curves.rows


def _reference_bytes(
    network: TunableNetwork, data: TuningData, teacher: Reference | None, home: Reference | None
) -> int:
    """What is kept of the outputs of a teacher, and of a warm-up's home, where they are computed once."""
    num_train, num_val = data.num_images("train"), data.num_images("val")
    taught = bytes_to_keep(num_train, len(data.class_names)) if teacher is not None else 0
    return taught + (bytes_to_keep(num_train + num_val, network.head.in_features) if home is not None else 0)


def _solves_start(tuning: TuningSettings, *, learnt: bool) -> bool:
    """Whether the start's head is solved: a new one unless it shall be random, a learnt one if that is asked for."""
    rule = tuning.head.initialisation
    if learnt and rule == "random":
        raise UserError(
            "tuning.head.initialisation=random would throw away the head that is learnt already: leave it out to go "
            "on from that head, or type tuning.head.initialisation=ridge to solve it anew"
        )
    if learnt and rule == "ridge":
        log.info("tuning.head.initialisation=ridge: the learnt head is solved anew")
    return rule == "ridge" or (rule == "auto" and not learnt)


def _resolve_loss(network: TunableNetwork, inputs: TuningInputs, tuning: TuningSettings) -> str:
    """Resolves ``auto``; ``none`` where there is nothing to train by gradient."""
    if not tuning.num_epochs:
        return "none"
    head_only = set(network.trainable_modules(tuning.mode)) == {network.head}
    if tuning.loss == "loo" and not inputs.complete:
        raise UserError(
            f"tuning.loss=loo needs all training images for its closed form, {len(inputs.labels['train'])} of "
            f"{inputs.num_train} are let in: type tuning.loss=cross_entropy, or raise "
            f"tuning.head.max_images={tuning.head.max_images}"
        )
    if tuning.loss == "loo":
        return "none" if head_only else "loo"
    fits = inputs.num_train <= LOO_MAX_IMAGES and inputs.complete and tuning.norm_stats != "adaptive"
    mixes = tuning.mixup_alpha or tuning.cutmix_alpha
    return "loo" if tuning.loss == "auto" and fits and not mixes and not head_only else "cross_entropy"


def _resolve_norm_stats(
    network: TunableNetwork, inputs: TuningInputs, tuning: TuningSettings, loss: str, device: torch.device
) -> str:
    """Resolves ``auto``; the bank of ``loo`` needs the statistics fixed, and one image has none."""
    if loss == "loo" or not has_norm_stats(network, tuning.mode):
        return "frozen"
    if tuning.norm_stats != "frozen" and inputs.smallest_share < 2:
        if tuning.norm_stats == "adaptive":
            raise UserError(
                "tuning.norm_stats=adaptive needs batches of at least 2 images for every process: raise "
                f"dataset.batch_size={inputs.batch_size}, or type tuning.norm_stats=frozen"
            )
        log.info("tuning.norm_stats=auto: batches of one image have no statistics: frozen")
        return "frozen"
    if tuning.norm_stats != "auto":
        return tuning.norm_stats
    return choose_norm_stats(network, tuning.mode, inputs, device)


@torch.no_grad()
def _restore(network: TunableNetwork, state: State) -> None:
    for name, tensor in network.trained_state().items():
        tensor.copy_(state[name])


class _Clock:
    """Wall time per phase, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
