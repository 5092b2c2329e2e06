from __future__ import annotations

import math

import pytest
import torch
from timm.optim import Lamb
from timm.scheduler import CosineLRScheduler

from tuning.optimizers import build_optimizer, build_schedule, check_optimizer
from tuning.parameter_groups import ParameterGroup
from tuning.settings import OptimizerSettings, ScheduleSettings
from tuning.sharding import clip_gradients
from zoo.errors import UserError


def groups() -> list[ParameterGroup]:
    return [
        ParameterGroup("body", 0.1, 0.3, [torch.nn.Parameter(torch.ones(2, 2))]),
        ParameterGroup("head", 0.2, 0.0, [torch.nn.Parameter(torch.ones(2))]),
    ]


def test_the_rate_rises_to_its_peak_and_falls_to_its_end():
    share = build_schedule(ScheduleSettings(warmup_fraction=0.2, final_fraction=0.1), 50, 1.0)
    shares = [share(step) for step in range(51)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0, abs=1e-9)
    peak = shares.index(max(shares))
    assert 9 <= peak <= 10
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak + 1 :] == sorted(shares[peak + 1 :], reverse=True)
    assert shares[30] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert shares[50] == pytest.approx(0.1)


def test_the_rate_without_warmup_and_constant():
    assert build_schedule(ScheduleSettings(warmup_fraction=0.0), 10, 1.0)(0) == 1.0
    constant = build_schedule(ScheduleSettings(name="constant", warmup_fraction=0.5), 10, 1.0)
    assert [constant(step) for step in (0, 4, 9)] == [0.2, 1.0, 1.0]
    assert build_schedule(ScheduleSettings(warmup_fraction=1.0), 1, 1.0)(0) == 1.0
    assert all(math.isfinite(build_schedule(ScheduleSettings(), 1, 1.0)(step)) for step in range(3))


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        (OptimizerSettings(betas=(0.8, 0.99), fused=True), torch.optim.AdamW, {"betas": (0.8, 0.99), "fused": True}),
        (OptimizerSettings(name="sgd", momentum=0.5), torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        (OptimizerSettings(_target_="torch.optim.RMSprop", kwargs={"alpha": 0.5}), torch.optim.RMSprop, {"alpha": 0.5}),
        (OptimizerSettings(_target_="timm.optim.Lamb", kwargs={"betas": [0.8, 0.9]}), Lamb, {"betas": [0.8, 0.9]}),
    ],
)
def test_an_optimiser_keeps_the_groups(settings, kind, expected):
    check_optimizer(settings, ScheduleSettings())
    optimizer = build_optimizer(groups(), settings)
    assert isinstance(optimizer, kind)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ("body", 0.1, 0.3),
        ("head", 0.2, 0.0),
    ]
    assert all(group[key] == value for group in optimizer.param_groups for key, value in expected.items())


def test_a_schedule_of_torch_is_followed_step_by_step():
    settings = ScheduleSettings(
        _target_="torch.optim.lr_scheduler.OneCycleLR", kwargs={"max_lr": 0.3, "cycle_momentum": False}
    )
    share = build_schedule(settings, 12, 0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=12, cycle_momentum=False)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [0.1 * share(step) for step in (7, 3)] == pytest.approx([rates[7], rates[3]])  # in any order: a resumed run
    assert [0.1 * share(step) for step in range(12)] == pytest.approx(rates)


def test_a_schedule_of_timm_counts_steps():
    kwargs = {"warmup_t": 3, "warmup_lr_init": 0.01, "lr_min": 0.001}
    share = build_schedule(ScheduleSettings(_target_="timm.scheduler.CosineLRScheduler", kwargs=kwargs), 10, 0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = CosineLRScheduler(optimizer, t_initial=10, t_in_epochs=False, **kwargs)
    rates = [optimizer.param_groups[0]["lr"]]
    for step in range(1, 10):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert [0.1 * share(step) for step in range(10)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("target", "kwargs", "told"),
    [
        ("torch.optim.NoSuch", {}, "cannot be imported"),
        ("math.pi", {}, "cannot be called"),
        ("torch.optim.RMSprop", {"alpa": 0.9}, "alpa"),
        ("torch.optim.RMSprop", {"alpha": -3}, "alpha"),
        ("torch.optim.Rprop", {}, "optimizer.weight_decay=0"),
        ("torch.optim.LBFGS", {}, "LBFGS"),
        ("torch.nn.Linear", {}, "torch.nn.Linear"),
    ],
)
def test_an_optimiser_that_cannot_be_is_told_in_one_line(target, kwargs, told):
    with pytest.raises(UserError) as error:
        check_optimizer(OptimizerSettings(_target_=target, kwargs=kwargs), ScheduleSettings())
    assert told in str(error.value)
    assert "optimizer._target_=" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "kwargs", "told"),
    [
        ("torch.optim.lr_scheduler.NoSuch", {}, "cannot be imported"),
        ("torch.optim.lr_scheduler.StepLR", {"gama": 0.1, "step_size": 2}, "gama"),
        ("torch.optim.lr_scheduler.StepLR", {}, "step_size"),
        ("torch.optim.lr_scheduler.ReduceLROnPlateau", {}, "function of the step"),
        ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1}, "cycle_momentum: false"),
        ("timm.scheduler.CosineLRScheduler", {"t_in_epochs": True}, "t_in_epochs"),
        ("torch.optim.lr_scheduler.ExponentialLR", {"gamma": float("inf")}, "finite"),
    ],
)
def test_a_schedule_that_cannot_be_is_told_in_one_line(target, kwargs, told):
    with pytest.raises(UserError) as error:
        check_optimizer(OptimizerSettings(), ScheduleSettings(_target_=target, kwargs=kwargs))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("by_value", [True, False])
def test_gradients_in_shards_are_clipped_as_torch_does(by_value: bool) -> None:
    gradients = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = ([torch.nn.Parameter(torch.zeros(3, 4)) for _ in gradients] for _ in range(2))
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    clip_gradients(ours, 0.5, by_value=by_value)
    (torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_)(theirs, 0.5)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad)
