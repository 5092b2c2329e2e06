from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch import nn

from tuning import ridge
from tuning.ridge import RIDGES, calibrate, fit_ridge
from zoo.chain.batches import Batches
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
@pytest.mark.parametrize("penalty", [0.1, 3.0, 500.0])
def test_leave_one_out_equals_a_loop_of_refits(n, d, penalty):
    features, labels = problem(n, d)
    fit = fit_ridge(features, labels, 4, penalty)
    x, targets = features.double(), nn.functional.one_hot(labels, 4).double()
    scale = x.std(0, unbiased=False)
    predictions = torch.cat(list(fit.leave_one_out(features, labels)))
    for i in range(n):
        rest = torch.arange(n) != i
        solution = solve(x[rest], targets[rest], scale, penalty)
        expected = torch.cat([x[i] / scale, torch.ones(1, dtype=x.dtype)]) @ solution
        torch.testing.assert_close(predictions[i], expected, rtol=1e-6, atol=1e-8)
    assert fit.loo_accuracy == (predictions.argmax(1) == labels).double().mean()
    assert fit.loo_mse == pytest.approx((predictions - targets).square().mean().item())


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
    with_constants = torch.cat([features[:, :19], torch.full((20, 5), 7.0)], 1)
    padded = fit_ridge(with_constants, labels, 3)
    assert dual.ridge in RIDGES
    predictions = [
        list(fit.leave_one_out(x, labels)) for fit, x in ((primal, features[:, :19]), (padded, with_constants))
    ]
    torch.testing.assert_close(*predictions)
    assert padded.weight[:, 19:].abs().max() < 1e-12


def test_the_grid_takes_the_penalty_of_the_least_loo_error():
    features, labels = problem(40, 60, seed=1)
    fit = fit_ridge(features, labels, 3)
    errors = {penalty: fit_ridge(features, labels, 3, penalty).loo_mse for penalty in RIDGES}
    assert fit.ridge == min(errors, key=errors.get)
    assert fit.loo_mse == errors[fit.ridge]


@pytest.mark.parametrize("n", [40, 400])
def test_a_trace_in_one_row_gets_no_weight_that_decides_alone(n):
    """A pixel behind a rectifier that hardly ever fires; leaving its row out cannot tell, for nothing is left then."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    features = torch.randn(n, 60, generator=generator).double()
    features[:, :4] += 3 * torch.nn.functional.one_hot(labels, 4)
    plain = fit_ridge(features, labels, 4)
    features[:, 50] = 0
    features[7, 50] = 3e-7
    fit = fit_ridge(features, labels, 4)
    assert fit.weight[:, 50].abs().max() < 1
    assert fit.weight[:, :4].allclose(plain.weight[:, :4], atol=0.05)


def test_two_samples_and_missing_classes():
    fit = fit_ridge(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 5)
    assert fit.weight.shape == (5, 1)
    assert fit.loo_mse < float("inf")


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


def batches(rows: torch.Tensor, size: int) -> Batches:
    return Batches(len(rows), lambda: iter(rows.split(size)))


@pytest.mark.parametrize(("n", "d"), [(12, 30), (30, 30), (60, 7), (31, 30)])
@pytest.mark.parametrize("kind", ["as they are", "few directions", "constant columns", "far from zero"])
def test_features_that_are_streamed_give_the_head_of_those_in_memory(n, d, kind, monkeypatch):
    features, labels = problem(n, d)
    if kind == "few directions":
        generator = torch.Generator().manual_seed(4)
        features = torch.randn(n, 3, generator=generator) @ torch.randn(3, d, generator=generator)
    if kind == "constant columns":
        features[:, ::3] = 0.1
    if kind == "far from zero":
        features = features.double() + 1e4
    whole = fit_ridge(features, labels, 4)
    expected = torch.cat(list(whole.leave_one_out(features, labels)))
    targets = nn.functional.one_hot(labels, 4).double()
    for rows_at_once in (1, 5, n - 1):
        monkeypatch.setattr(ridge, "_ROWS", rows_at_once)
        streamed = fit_ridge(batches(features, 3), labels, 4)
        assert streamed.ridge == whole.ridge
        tolerance = {"rtol": 1e-8, "atol": 1e-8}
        x = features.double()
        torch.testing.assert_close(x @ streamed.weight.T + streamed.bias, x @ whole.weight.T + whole.bias, **tolerance)
        found = torch.cat(list(streamed.leave_one_out(batches(features, 7), labels)))
        torch.testing.assert_close(found, expected, **tolerance)
        assert streamed.loo_accuracy == (found.argmax(1) == labels).double().mean()
        assert streamed.loo_mse == pytest.approx(float((found - targets).square().mean()))
        assert calibrate(streamed.leave_one_out(batches(features, 7), labels), labels) == calibrate(expected, labels)


def test_the_batches_that_rows_come_in_change_no_bit():
    features, labels = problem(50, 9)
    fits = [fit_ridge(rows, labels, 3) for rows in (features, batches(features, 1), batches(features, 32))]
    for other in fits[1:]:
        assert torch.equal(fits[0].weight, other.weight)
        assert fits[0].loo_mse == other.loo_mse


def test_no_more_rows_are_held_than_there_are_columns(monkeypatch):
    monkeypatch.setattr(ridge, "_ROWS", 8)
    features, labels = problem(400, 6)
    alive = weakref.WeakSet()

    def read():
        for start in range(0, len(features), 4):
            batch = features[start : start + 4].clone()
            alive.add(batch)
            assert len(alive) <= 5  # of 100
            yield batch

    rows = Batches(len(features), read)
    fit = fit_ridge(rows, labels, 3)
    assert 1 < calibrate(fit.leave_one_out(rows, labels), labels) < 100


def test_rows_that_are_missing_are_noticed():
    features, labels = problem(20, 4)
    with pytest.raises(ValueError, match="20 labels for 16 rows"):
        fit_ridge(Batches(20, lambda: iter(features[:16].split(4))), labels, 3)


def margins(num_images, num_wrong, num_classes=2):
    """Scores whose right class leads by 0.8, but for some images whose class trails by as much."""
    labels = torch.arange(num_images) % num_classes
    scores = torch.zeros(num_images, num_classes, dtype=torch.float64)
    scores[torch.arange(num_images), labels] = 0.8
    scores[:num_wrong] = scores[:num_wrong].roll(1, dims=1)
    return scores, labels


def test_calibration_takes_the_factor_of_the_least_cross_entropy():
    scores, labels = margins(4000, 400, num_classes=5)
    factor = calibrate(scores, labels)

    def loss(factor):
        return nn.functional.cross_entropy(factor * scores, labels)

    assert loss(factor) <= min(loss(factor * 1.06), loss(factor / 1.06))
    assert calibrate(scores.split(7), labels) == factor


@pytest.mark.parametrize("num_classes", [2, 3, 20])
@pytest.mark.parametrize("num_images", [6, 40, 1000])
def test_images_without_a_mistake_make_for_a_confidence_of_their_number(num_images, num_classes):
    scores, labels = margins(num_images, 0, num_classes)
    expected = math.log((num_images + 1) * (num_classes - 1)) / 0.8  # right to wrong as n + 1 to 1
    assert calibrate(scores, labels) == pytest.approx(expected, rel=0.06)  # the step of the grid


def test_few_separable_images_give_a_head_that_survives_a_mistake():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 2
    features = 10.0 * nn.functional.one_hot(labels, 6) + 0.1 * torch.randn(12, 6, generator=generator)
    fit = fit_ridge(features, labels, 2)
    factor = calibrate(fit.leave_one_out(features, labels), labels)
    wrong = factor * (features @ fit.weight.T.float() + fit.bias.float())
    assert fit.loo_accuracy == 1
    assert nn.functional.cross_entropy(wrong, 1 - labels) < 5
