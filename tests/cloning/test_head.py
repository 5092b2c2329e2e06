from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from cloning.head import (
    balanced_cross_entropy,
    calibrate,
    calibrated_head,
    calibrated_logits,
    class_weights,
    solve_head,
)
from zoo.errors import UserError


def problem(n: int = 30, d: int = 5, num_classes: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, d, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 1.0, 0.0]) + 2
    labels = torch.tensor([0] * (n - 8) + [1] * 5 + [2] * 3)
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((num_classes, d), (num_classes,)))
    return features, labels, weight, bias


@pytest.mark.parametrize("has_teacher", [False, True])
def test_head_is_the_minimum_that_a_general_solver_finds(*, has_teacher: bool) -> None:
    features, labels, weight, bias = problem()
    teacher = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)) if has_teacher else None
    x, y = features.double(), labels
    w = torch.zeros(len(y), dtype=torch.float64)
    for label in range(3):
        w[y == label] = 1 / (3 * (y == label).sum())
    mean = w @ x
    scale = (w @ (x - mean) ** 2).sqrt()
    scale[scale < 1e-6] = 1

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(flat, requires_grad=True)
        change = (theta[:15].view(3, 5) - weight.double()) * scale
        logits = x @ theta[:15].view(3, 5).T + theta[15:]
        fit = (w * F.cross_entropy(logits, y, reduction="none")).sum()
        if teacher is not None:
            wanted = (teacher.double() / 2).exp()
            wanted = wanted / wanted.sum(1, keepdim=True)
            said = -(wanted * (logits / 2).log_softmax(1)).sum(1)
            fit = 0.5 * fit + 0.5 * 4 * (w * said).sum()
        total = fit + 0.05 * change.square().sum()
        total.backward()
        return total.item(), theta.grad.numpy()

    start = torch.cat([weight.flatten(), bias]).double().numpy()
    expected = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    )
    found = solve_head(features, labels, weight, bias, teacher=teacher, penalty=0.05)
    solved = torch.cat([part.flatten() for part in found])
    found = loss(solved.double().numpy())[0]
    assert found == pytest.approx(expected.fun, rel=1e-5)
    shift = expected.x[15:].mean() - solved[15:].double().mean().item()  # logits are free up to one number
    logits = [
        x @ torch.tensor(t[:15]).view(3, 5).T + torch.tensor(t[15:]) for t in (expected.x, solved.double().numpy())
    ]
    torch.testing.assert_close(logits[0] - shift, logits[1], rtol=1e-2, atol=1e-2)


def test_a_large_penalty_keeps_the_weights() -> None:
    features, labels, weight, bias = problem()
    torch.testing.assert_close(solve_head(features, labels, weight, bias, penalty=1e6)[0], weight, rtol=1e-3, atol=1e-4)


def test_repeating_the_samples_of_a_class_changes_nothing() -> None:
    features, labels, weight, bias = problem()
    repeated = torch.cat([torch.arange(30), torch.arange(27, 30), torch.arange(27, 30)])
    once = solve_head(features, labels, weight, bias)
    often = solve_head(features[repeated], labels[repeated], weight, bias)
    for first, second in zip(once, often, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_class_weights_sum_to_one_with_equal_shares() -> None:
    labels = torch.tensor([2, 2, 2, 0])
    weights = class_weights(labels, 4)
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2], dtype=torch.float64))


def test_no_samples_or_broken_features_are_refused() -> None:
    features, labels, weight, bias = problem()
    with pytest.raises(UserError, match="without samples"):
        solve_head(features[:0], labels[:0], weight, bias)
    features[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        solve_head(features, labels, weight, bias)


def test_calibration_is_the_best_scale_and_offset_of_each_network() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, owners = torch.arange(60) % 4, torch.tensor([0, 0, 1, 1])
    logits = torch.randn(60, 4, generator=generator) + 2 * F.one_hot(labels, 4)
    apart = torch.cat([logits[:, :2], 5 * logits[:, 2:] - 7], dim=1)
    scale, offset = calibrate(apart, labels, owners)
    assert torch.equal(scale[owners == 1], scale[2:3].expand(2))
    weights = class_weights(labels, 4)

    def loss(scales: tuple[float, float], shift: float) -> float:
        found = apart * torch.tensor(scales)[owners] + shift * owners
        return balanced_cross_entropy(found, labels, weights).item()

    best = loss((scale[0].item(), scale[2].item()), (offset[2] - offset[0]).item())
    grid = [loss((a, b), c) for a in (0.7, 0.9, 1.0, 1.2, 1.5) for b in (0.15, 0.2, 0.25) for c in (0.0, 1.0, 1.4, 2.0)]
    assert best <= min(grid) + 1e-3
    assert best < loss((1.0, 1.0), 0.0) / 2


def test_a_calibrated_head_gives_calibrated_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(30, 5, generator=generator), torch.arange(30) % 3
    weight, bias = torch.randn(3, 5, generator=generator), torch.randn(3, generator=generator)
    owners = torch.tensor([0, 1, 1])
    wanted = calibrated_logits(features, labels, weight, bias, owners)
    found = calibrated_head(features, labels, weight, bias, owners)
    assert torch.equal(found[0][0], weight[0])
    assert found[1][0] == bias[0]
    logits = features @ found[0].T + found[1]  # the same up to one scale and one offset of all
    scale = wanted[:, 0].std() / logits[:, 0].std()
    torch.testing.assert_close(logits * scale + (wanted - logits * scale).mean(), wanted, rtol=1e-4, atol=1e-4)
