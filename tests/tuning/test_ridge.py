from __future__ import annotations

import pytest
import torch
from torch import nn

from tuning.ridge import RIDGES, calibrate, fit_ridge
from zoo.errors import UserError


def problem(n: int, d: int, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    scales = torch.logspace(-2, 2, d)
    features = (centres[labels] + torch.randn(n, d, generator=generator)) * scales + 5 * scales
    return features, labels


def solve(features, targets, scale, ridge):
    """Ridge with a free intercept through the normal equations of the augmented system."""
    z = torch.cat([features / scale, torch.ones(len(features), 1, dtype=features.dtype)], 1)
    penalty = torch.full((z.shape[1],), ridge, dtype=features.dtype)
    penalty[-1] = 0
    return torch.linalg.solve(z.T @ z + penalty.diag(), z.T @ targets)


@pytest.mark.parametrize(("n", "d"), [(12, 30), (30, 30), (40, 7), (25, 1)])
@pytest.mark.parametrize("ridge", [0.1, 3.0, 500.0])
def test_leave_one_out_equals_a_loop_of_refits(n, d, ridge):
    features, labels = problem(n, d)
    fit = fit_ridge(features, labels, 4, ridge)
    x, targets = features.double(), nn.functional.one_hot(labels, 4).double()
    scale = x.std(0, unbiased=False)
    for i in range(n):
        rest = torch.arange(n) != i
        solution = solve(x[rest], targets[rest], scale, ridge)
        expected = torch.cat([x[i] / scale, torch.ones(1, dtype=x.dtype)]) @ solution
        torch.testing.assert_close(fit.loo_predictions[i], expected, rtol=1e-6, atol=1e-8)
    assert fit.loo_accuracy == (fit.loo_predictions.argmax(1) == labels).double().mean()
    assert fit.loo_mse == pytest.approx((fit.loo_predictions - targets).square().mean().item())


@pytest.mark.parametrize(("n", "d"), [(12, 30), (40, 7)])
def test_weights_act_on_raw_features(n, d):
    features, labels = problem(n, d)
    fit = fit_ridge(features, labels, 3, 2.0)
    x, targets = features.double(), nn.functional.one_hot(labels, 3).double()
    scale = x.std(0, unbiased=False)
    solution = solve(x, targets, scale, 2.0)
    expected = x / scale @ solution[:-1] + solution[-1]
    torch.testing.assert_close(x @ fit.weight.T + fit.bias, expected, rtol=1e-6, atol=1e-7)

    head = nn.Linear(d, 3)
    fit.copy_to(head)
    torch.testing.assert_close(head(features).double(), expected, rtol=1e-3, atol=1e-3)


def test_dual_and_primal_agree_where_both_apply():
    features, labels = problem(20, 20)
    dual = fit_ridge(features, labels, 3)
    primal = fit_ridge(features[:, :19], labels, 3)
    padded = fit_ridge(torch.cat([features[:, :19], torch.full((20, 5), 7.0)], 1), labels, 3)  # 5 constant columns
    assert dual.ridge in RIDGES
    torch.testing.assert_close(primal.loo_predictions, padded.loo_predictions)
    assert padded.weight[:, 19:].abs().max() < 1e-12


def test_the_grid_takes_the_penalty_of_the_least_loo_error():
    features, labels = problem(40, 60, seed=1)
    fit = fit_ridge(features, labels, 3)
    errors = {ridge: fit_ridge(features, labels, 3, ridge).loo_mse for ridge in RIDGES}
    assert fit.ridge == min(errors, key=errors.get)
    assert fit.loo_mse == errors[fit.ridge]


def test_two_samples_and_missing_classes():
    fit = fit_ridge(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 5)
    assert fit.weight.shape == (5, 1)
    assert torch.isfinite(fit.loo_predictions).all()


@pytest.mark.parametrize(
    ("features", "labels", "ridges", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), 1.0, "at least 2"),
        (torch.zeros(3, 3), torch.tensor([0, 1, 9]), 1.0, "allowed are 0 to 2"),
        (torch.full((3, 3), torch.nan), torch.tensor([0, 1, 2]), 1.0, "not finite"),
        (torch.zeros(3, 3), torch.tensor([0, 1, 2]), 0.0, "above 0"),
        (torch.zeros(3, 3), torch.tensor([0, 1]), 1.0, "allowed are (n, d)"),
    ],
)
def test_refusals(features, labels, ridges, message):
    with pytest.raises(UserError) as error:
        fit_ridge(features, labels, 3, ridges)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_calibration_takes_the_factor_of_the_least_cross_entropy():
    scores = torch.tensor([[0.2, 0.0], [0.0, 0.2], [0.1, 0.0], [0.05, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    factor = calibrate(scores, labels)

    def loss(factor):
        return nn.functional.cross_entropy(factor * scores, labels)

    assert 1 < factor < 100
    assert loss(factor) <= min(loss(factor * 1.1), loss(factor / 1.1))
