from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tuning.module import parameter_groups, rate
from tuning.settings import ScheduleSettings


def test_norms_and_biases_are_not_decayed_and_frozen_parameters_are_left_out():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    network[2].requires_grad_(False)
    decayed, kept = parameter_groups(network, 0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(network[0].weight)]
    assert {id(p) for p in kept["params"]} == {id(network[0].bias), id(network[1].weight), id(network[1].bias)}


def test_the_rate_rises_to_its_peak_and_falls_to_its_end():
    share = rate(ScheduleSettings(warmup_fraction=0.2, final_fraction=0.1), 50)
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
    assert rate(ScheduleSettings(warmup_fraction=0.0), 10)(0) == 1.0
    constant = rate(ScheduleSettings(name="constant", warmup_fraction=0.5), 10)
    assert [constant(step) for step in (0, 4, 9)] == [0.2, 1.0, 1.0]
    assert rate(ScheduleSettings(warmup_fraction=1.0), 1)(0) == 1.0
    assert torch.isfinite(torch.tensor([rate(ScheduleSettings(), 1)(step) for step in range(3)])).all()
