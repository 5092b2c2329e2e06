"""The optimiser of the parameter groups and the schedule of its rates, by name or by dotted name."""

from __future__ import annotations

import inspect
import io
import math
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from tuning.parameter_groups import ParameterGroup
from tuning.settings import OptimizerSettings, ScheduleSettings
from zoo.errors import UserError
from zoo.limits import shown

Share = Callable[[int], float]


def build_optimizer(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> Optimizer:
    """The optimiser over the groups, each with its own rate and decay and under its name.

    Raises:
        UserError: ``_target_`` cannot be imported, refuses its arguments, or has no rate or decay of its own.
    """
    parameters = [
        {"params": g.parameters, "lr": g.learning_rate, "weight_decay": g.weight_decay, "name": g.name} for g in groups
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings._target_ is None:
        options: dict[str, Any] = {"fused": True} if settings.fused else {}
        if settings.name == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, betas=settings.betas, **options)
        momentum = settings.momentum
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, nesterov=momentum > 0, **options)
    make = _resolve("optimizer", settings._target_)
    takes_decay = decay == 0 or _takes(make, "weight_decay")
    optimizer = _made(
        "optimizer",
        settings,
        lambda: make(
            parameters, lr=rate, **({"weight_decay": decay} if takes_decay and decay else {}), **settings.kwargs
        ),
    )
    if not isinstance(optimizer, Optimizer):
        raise UserError(
            f"optimizer._target_={settings._target_} made a {type(optimizer).__name__}, no torch.optim.Optimizer; type "
            "optimizer._target_=torch.optim.RMSprop, or leave it out for AdamW"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer._target_={settings._target_} evaluates the loss several times in a step (its closure), which "
            "is not supported: type optimizer._target_=torch.optim.RMSprop, or leave it out for AdamW"
        )
    if decay and "weight_decay" not in optimizer.defaults:
        raise UserError(
            f"optimizer._target_={settings._target_} has no weight decay: type optimizer.weight_decay=0, not {decay:g}"
        )
    return optimizer


def build_schedule(settings: ScheduleSettings, num_steps: int, learning_rate: float) -> Share:
    """The share of the peak learning rate at each step, the same for all groups.

    A named schedule is a linear rise, then a cosine or nothing more. One of ``_target_`` is run beside the optimiser
    on a parameter of its own, so that no schedule can even out the rates of the groups.

    Args:
        num_steps: Of the whole training.
        learning_rate: What ``_target_`` takes for the peak.

    Raises:
        UserError: ``_target_`` cannot be imported, refuses its arguments, or is no function of the step alone.
    """
    if settings._target_ is not None:
        foreign = _ForeignSchedule(settings, num_steps, learning_rate)
        return lambda step: foreign(step)  # a plain function: the state of an object would go into checkpoints
    warmup = settings.warmup_fraction * num_steps

    def share(step: int) -> float:
        if step + 1 < warmup:
            return (step + 1) / warmup
        if settings.name == "constant":
            return 1.0
        progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
        return settings.final_fraction + (1 - settings.final_fraction) * (1 + math.cos(math.pi * max(progress, 0))) / 2

    return share


def check_optimizer(optimizer: OptimizerSettings, schedule: ScheduleSettings) -> None:
    """Takes a step on a few numbers, so that what cannot work is told before anything is computed.

    Raises:
        UserError: See ``build_optimizer`` and ``build_schedule``.
    """
    if optimizer._target_ is not None:
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2, 3, 3), (2, 2), (2,))]
        groups = [ParameterGroup("tried", optimizer.learning_rate, optimizer.weight_decay, parameters)]
        tried = build_optimizer(groups, optimizer)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        _made("optimizer", optimizer, tried.step)
        _made("optimizer", optimizer, lambda: _written_and_read(tried))
    if schedule._target_ is not None:
        share = build_schedule(schedule, 10, optimizer.learning_rate)
        for step in range(10):
            share(step)


def _written_and_read(optimizer: Optimizer) -> None:
    """Fails where a checkpoint could not hold what the optimiser keeps: tensors and plain values, no code."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


class _ForeignSchedule:
    """Shares of the peak rate, read off a schedule that drives an optimiser of its own."""

    def __init__(self, settings: ScheduleSettings, num_steps: int, learning_rate: float) -> None:
        self._settings, self._num_steps, self._peak = settings, num_steps, learning_rate
        self._shares: list[float] = []
        make = _resolve("schedule", settings._target_)
        self._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate, momentum=0.9)
        self._others = self._other_values()
        options = {**_number_of_steps(make, settings.kwargs, num_steps), **settings.kwargs}
        if options.get("t_in_epochs"):
            raise UserError(
                "schedule.kwargs: t_in_epochs=true counts epochs, and a schedule goes by steps: leave it out"
            )
        self._schedule = _made("schedule", settings, lambda: make(self._optimizer, **options))
        if "Plateau" in type(self._schedule).__name__ or not callable(getattr(self._schedule, "step", None)):
            raise UserError(
                f"schedule._target_={settings._target_} goes by what training measures, or is no schedule: give one "
                "that is a function of the step, such as torch.optim.lr_scheduler.CosineAnnealingLR"
            )
        self._shares.append(self._read())

    def __call__(self, step: int) -> float:
        step = min(step, max(self._num_steps - 1, 0))
        while len(self._shares) <= step:
            _made("schedule", self._settings, self._advance)
            self._shares.append(self._read())
        return self._shares[step]

    def _advance(self) -> None:
        self._optimizer.step()
        if hasattr(self._schedule, "step_update"):  # timm's
            self._schedule.step_update(len(self._shares))
        else:
            self._schedule.step()

    def _read(self) -> float:
        (group,) = self._optimizer.param_groups
        if not (math.isfinite(group["lr"]) and group["lr"] >= 0):
            raise UserError(
                f"schedule._target_={self._settings._target_}: the rate of step {len(self._shares)} is "
                f"{group['lr']}; allowed are finite numbers from 0: change schedule.kwargs"
            )
        if self._other_values() != self._others:
            raise UserError(
                f"schedule._target_={self._settings._target_} changes momentum too, and only rates are scheduled here: "
                "type schedule.kwargs={cycle_momentum: false, ...}"
            )
        return group["lr"] / self._peak

    def _other_values(self) -> tuple[Any, ...]:
        (group,) = self._optimizer.param_groups
        return group["momentum"], group["weight_decay"]


_NUMBER_OF_STEPS = ("T_max", "total_steps", "t_initial", "num_training_steps")


def _number_of_steps(make: Callable[..., Any], given: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """What a schedule takes for the number of all steps, under its own name for it; for timm's, that steps count."""
    found: dict[str, Any] = {}
    for name, parameter in _signature(make).items():
        if name in _NUMBER_OF_STEPS and parameter.default in (inspect.Parameter.empty, None) and "epochs" not in given:
            found[name] = max(num_steps, 1)
        if name == "t_in_epochs":
            found[name] = False
    return found


def _resolve(key: str, target: str) -> Callable[..., Any]:
    example = {"optimizer": "torch.optim.RMSprop", "schedule": "torch.optim.lr_scheduler.CosineAnnealingLR"}[key]
    try:
        made = pkgutil.resolve_name(target)
    except Exception as error:
        raise UserError(
            f"{key}._target_={shown(target)} cannot be imported: {error}; type the dotted name of a class or function, "
            f"such as {key}._target_={example}"
        ) from error
    if not callable(made):
        raise UserError(
            f"{key}._target_={shown(target)} cannot be called; type a class, such as {key}._target_={example}"
        )
    return made


def _made(key: str, settings: OptimizerSettings | ScheduleSettings, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        taken = ", ".join(name for name in _signature(_resolve(key, settings._target_)) if name not in _OURS)
        raise UserError(
            f"{key}._target_={settings._target_} with {key}.kwargs={shown(settings.kwargs)} fails: "
            f"{str(error).strip() or type(error).__name__}; its arguments are {shown(taken, 300)}"
        ) from error


_OURS = ("self", "params", "optimizer", "lr", "weight_decay")


def _takes(make: Callable[..., Any], name: str) -> bool:
    parameters = _signature(make)
    return name in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def _signature(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(make).parameters)
    except (ValueError, TypeError):
        return {}
