"""Tuning from start to end: solve the head, train, solve it again, keep what is best on validation, test once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from tuning.data import TuningData, TuningInputs, prepare_inputs
from tuning.freezing import has_running_statistics, trainable_submodules
from tuning.losses import LeaveOneOutHead
from tuning.module import TuningModule
from tuning.network import TunableNetwork
from tuning.ridge import calibrate, fit_ridge
from tuning.settings import OptimizerSettings, ScheduleSettings, TrainerSettings, TuningSettings
from tuning.trainer import averaging, build_trainer, checkpointing, quiet
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
        choice: ``start``, ``tuned`` (the best epoch) or ``refitted`` (the last, with a head solved anew); with the
            rule of the normalisation statistics where two were tried, as in ``tuned/adaptive``.
        val_accuracies: Of every candidate, by the same names.
        val_losses: Mean cross-entropy of every candidate.
        test_accuracy: Of the choice, measured once; None where the test split was left out.
        test_loss: Mean cross-entropy of the choice.
        loss: The loss that was minimised, ``none`` where nothing was trained.
        num_parameters: Of the network.
        num_trained_parameters: Of what the mode trains.
        epochs: Passes over the training images with each rule of the statistics.
        seconds: Wall time per phase.
    """

    choice: str
    val_accuracies: dict[str, float]
    val_losses: dict[str, float]
    test_accuracy: float | None
    test_loss: float | None
    loss: str
    num_parameters: int
    num_trained_parameters: int
    epochs: int
    seconds: dict[str, float]


def tune(
    network: TunableNetwork,
    datamodule: pl.LightningDataModule,
    tuning: TuningSettings,
    *,
    run_dir: Path,
    optimizer: OptimizerSettings | None = None,
    schedule: ScheduleSettings | None = None,
    trainer: TrainerSettings | None = None,
    seed: int = 0,
    loggers: Loggers = (),
    callbacks: Sequence[pl.Callback] = (),
    resume: bool = False,
    test: bool = True,
) -> TuningResult:
    """Tunes a network in place and leaves it on the CPU, in eval mode, with the chosen weights.

    Args:
        network: Its head must have as many outputs as the data has classes.
        datamodule: Gives images for the network's input.
        run_dir: Checkpoints go to ``run_dir/checkpoints``.
        seed: Fixes dropout and mixing; the order of images and their augmentation belong to the data module.
        loggers: Receive the metrics of every epoch.
        callbacks: For Lightning's trainer, besides checkpoints and averaging.
        resume: Continue from the last checkpoint in ``run_dir``, to the numbers of a run without interruption.
        test: Measure the choice on the test split; ``False`` leaves that split unseen and the figures None.

    Raises:
        UserError: The head does not fit the data, the settings contradict each other, the training diverges.
    """
    if network.head.out_features != datamodule.num_classes:
        raise UserError(
            f"the network's head has {network.head.out_features} outputs, {datamodule.name} has "
            f"{datamodule.num_classes} classes; give the network a head of {datamodule.num_classes} outputs"
        )
    job = _Job(
        network,
        datamodule,
        tuning,
        optimizer or OptimizerSettings(),
        schedule or ScheduleSettings(),
        trainer or TrainerSettings(),
        Path(run_dir) / "checkpoints",
        seed,
        loggers,
        callbacks,
        resume,
        test,
    )
    with quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)  # Lightning's loaders draw their workers' seeds from it
        return job.run()


@dataclass(frozen=True)
class _Candidate:
    name: str
    val_accuracy: float
    val_loss: float
    state: State


@dataclass(frozen=True)
class _Job:
    network: TunableNetwork
    datamodule: pl.LightningDataModule
    tuning: TuningSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    trainer: TrainerSettings
    checkpoints: Path
    seed: int
    loggers: Loggers
    callbacks: Sequence[pl.Callback]
    resume: bool
    test: bool

    def run(self) -> TuningResult:
        network, tuning, clock = self.network, self.tuning, _Clock()
        network.freeze(tuning.mode, norm_stats="frozen")
        num_trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        with clock("start"):
            inputs = prepare_inputs(network, self.datamodule, tuning, self.device)
            if tuning.head.initialisation == "ridge":
                self.solve_head(inputs)
            candidates = [self.candidate("start", inputs)]
            for logger in self.loggers:
                start = {"val/accuracy": candidates[0].val_accuracy, "val/loss": candidates[0].val_loss}
                logger.log_metrics(start, step=0)
        loss = self.loss(inputs)
        rules = self.norm_rules(loss)
        for rule in rules:
            suffix = f"/{rule}" if len(rules) > 1 else ""
            self.restore(candidates[0].state)
            with clock("fit"):
                tuned, last = self.fit(inputs, loss, rule, suffix)
            with clock("refit"):
                self.restore(tuned)
                candidates.append(self.candidate(f"tuned{suffix}", inputs))
                if tuning.head.refit == "always" or (tuning.head.refit == "auto" and inputs.complete):
                    self.restore(last)
                    self.solve_head(inputs)
                    candidates.append(self.candidate(f"refitted{suffix}", inputs))
        chosen = candidates[-1]
        if tuning.guard:
            chosen = min(candidates, key=lambda candidate: (-candidate.val_accuracy, candidate.val_loss))
        self.restore(chosen.state)
        test_accuracy = test_loss = None
        if self.test:
            with clock("test"):
                whole = nn.Sequential(*network.stages())
                test_accuracy, test_loss = self.measure("test", whole, TuningData(self.datamodule))
        network.cpu().eval()
        return TuningResult(
            choice=chosen.name,
            val_accuracies={candidate.name: candidate.val_accuracy for candidate in candidates},
            val_losses={candidate.name: candidate.val_loss for candidate in candidates},
            test_accuracy=test_accuracy,
            test_loss=test_loss,
            loss=loss,
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            num_trained_parameters=num_trained,
            epochs=tuning.num_epochs if rules else 0,
            seconds=clock.seconds,
        )

    @property
    def device(self) -> torch.device:
        return build_trainer(self.trainer).strategy.root_device

    def loss(self, inputs: TuningInputs) -> str:
        """Resolves ``auto``; ``none`` where there is nothing to train by gradient."""
        tuning = self.tuning
        if not tuning.num_epochs:
            return "none"
        head_only = set(self.network.trainable_modules(tuning.mode)) == {self.network.head}
        if tuning.loss == "loo" and not inputs.complete:
            raise UserError(
                f"tuning.loss=loo needs all training images for its closed form, {len(inputs.labels)} of "
                f"{self.datamodule.num_images('train')} are let in: type tuning.loss=cross_entropy, or raise "
                f"tuning.head.max_images={tuning.head.max_images} or tuning.max_cache_bytes={tuning.max_cache_bytes}"
            )
        if tuning.loss == "loo":
            return "none" if head_only else "loo"
        fits = len(inputs.labels) <= LOO_MAX_IMAGES and inputs.complete and tuning.norm_stats != "adaptive"
        mixes = tuning.mixup_alpha or tuning.cutmix_alpha
        return "loo" if tuning.loss == "auto" and fits and not mixes and not head_only else "cross_entropy"

    def norm_rules(self, loss: str) -> tuple[str, ...]:
        """The rules of the normalisation statistics to tune with; the bank of ``loo`` needs them fixed."""
        trained = trainable_submodules(self.network.trainable_modules(self.tuning.mode))
        if loss == "none":
            return ()
        if loss == "loo" or not any(has_running_statistics(module) for module in trained):
            return ("frozen",)
        return ("frozen", "adaptive") if self.tuning.norm_stats == "auto" else (self.tuning.norm_stats,)

    def solve_head(self, inputs: TuningInputs) -> LeaveOneOutHead:
        """Solves the network's head on the training images without augmentation; returns what could train with it."""
        features = inputs.features(self.network, self.device)
        fit = fit_ridge(features, inputs.labels, self.network.head.out_features)
        temperature = calibrate(fit.loo_predictions, inputs.labels)
        fit.copy_to(self.network.head, temperature=temperature)
        return LeaveOneOutHead(features, inputs.labels, fit, temperature)

    def fit(self, inputs: TuningInputs, loss: str, rule: str, suffix: str) -> tuple[State, State]:
        """Trains by gradient from the network's present state; returns the state of the best epoch and of the last."""
        head = self.solve_head(inputs) if loss == "loo" else None
        self.network.freeze(self.tuning.mode, norm_stats=rule)
        module = self.module(
            inputs.body,
            leave_one_out=head,
            features=partial(inputs.features, self.network, self.device),
            prefix=f"{rule}/" if suffix else "",
        )
        directory = self.checkpoints / rule if suffix else self.checkpoints
        if not self.resume:
            _remove_checkpoints(directory)
        best, last = checkpointing(directory, f"{module.prefix}val/accuracy")
        trainer = build_trainer(
            self.trainer,
            max_epochs=self.tuning.num_epochs,
            gradient_clip_norm=self.optimizer.gradient_clip_norm,
            loggers=self.loggers,
            callbacks=[*self.callbacks, *averaging(self.tuning.ema_decay), best, last],
        )
        resumed = directory / "last.ckpt"
        self.network.train()
        trainer.fit(module, datamodule=inputs.loaders, ckpt_path=resumed if resumed.exists() else None)
        return tuple(self.checkpointed(module, directory / f"{name}.ckpt") for name in ("best", "last"))

    def checkpointed(self, module: TuningModule, path: Path) -> State:
        """The trained state of a checkpoint: the file's, since BatchNorm statistics differ from process to process."""
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        return self.state()

    def candidate(self, name: str, inputs: TuningInputs) -> _Candidate:
        accuracy, loss = self.measure("val", inputs.body, inputs.loaders)
        log.info("%s: validation accuracy %.4f, loss %.4f", name, accuracy, loss)
        return _Candidate(name, accuracy, loss, self.state())

    def measure(self, split: str, body: nn.Module, loaders: TuningData) -> tuple[float, float]:
        """Accuracy and mean cross-entropy on a split, over all processes."""
        trainer = build_trainer(self.trainer)
        run = trainer.validate if split == "val" else trainer.test
        (metrics,) = run(self.module(body), datamodule=loaders, verbose=False)
        return round(metrics[f"{split}/accuracy"], 6), metrics[f"{split}/loss"]

    def module(self, body: nn.Module, **kwargs: object) -> TuningModule:
        return TuningModule(
            self.network,
            body,
            tuning=self.tuning,
            optimizer=self.optimizer,
            schedule=self.schedule,
            seed=self.seed,
            **kwargs,
        )

    def state(self) -> State:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.trained_state().items()}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        for name, tensor in self.network.trained_state().items():
            tensor.copy_(state[name])


@rank_zero_only
def _remove_checkpoints(directory: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (directory / name).unlink(missing_ok=True)


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
