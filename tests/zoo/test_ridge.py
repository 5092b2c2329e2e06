"""Moments of rows that come and go, and what is solved out of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.ridge import Moments, damped_solve


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(x: Tensor, y: Tensor, size: int, weights: Tensor | None = None) -> Moments:
    found = Moments.zeros(x.shape[1], y.shape[1])
    for start in range(0, len(x), size):
        stop = start + size
        found.add(x[start:stop], y[start:stop], None if weights is None else weights[start:stop])
    return found


def brute_force(x: Tensor, y: Tensor, weights: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The solution of the augmented system: columns of x as they are, an intercept free of penalty."""
    share = weights / weights.sum()
    variance = share @ (x - share @ x).square()
    columns = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    penalty = torch.cat([ridge * variance, torch.zeros(1, dtype=x.dtype)])
    solved = torch.linalg.solve(
        (columns * share[:, None]).T @ columns + penalty.diag(), (columns * share[:, None]).T @ y
    )
    return solved[:-1], solved[-1]


def test_moments_do_not_depend_on_the_batches_and_far_means_cost_no_digits():
    x, y = 1e6 + random(50, 9), random(50, 3, seed=1) - 1e5
    whole, centred = moments_of(x, y, 50), x - x.mean(0)
    torch.testing.assert_close(whole.xx, centred.T @ centred, rtol=1e-8, atol=1e-8)
    for size in (1, 7, 49):
        streamed = moments_of(x, y, size)
        for name in ("x", "y", "xx", "xy", "yy"):
            torch.testing.assert_close(getattr(streamed, name), getattr(whole, name), rtol=1e-8, atol=1e-7)


def test_generalised_cross_validation_is_that_of_the_hat_matrix_and_asks_for_more_of_fewer_rows():
    x, y = random(30, 8) @ random(8, 8, seed=1), random(30, 2, seed=2)
    y = y + x[:, :2]
    moments, centred = moments_of(x, y, 30), x - x.mean(0)
    for ridge in (1e-3, 0.1, 10.0):
        penalty = (ridge * centred.square().sum(0)).diag()
        hat = centred @ torch.linalg.solve(centred.T @ centred + penalty, centred.T) + 1 / 30
        expected = 30 * (y - hat @ y).square().sum() / (30 - hat.trace()) ** 2
        assert moments.num_effective(ridge) == pytest.approx(float(hat.trace()))
        assert moments.generalised_error(ridge, 30) == pytest.approx(float(expected))
    ridges = [10.0**exponent for exponent in range(-6, 3)]
    least = [min(ridges, key=lambda r: moments.generalised_error(r, num_rows)) for num_rows in (10, 30, 1000)]
    assert least == sorted(least, reverse=True)
    assert least[0] > least[-1]
    assert moments.generalised_error(1e-6, 8.5) == math.inf  # as many degrees of freedom as rows


def test_moments_add_subtract_and_select():
    x, y = random(9, 4), random(9, 2, seed=1)
    parts = [moments_of(x[:5], y[:5], 5), moments_of(x[5:], y[5:], 4)]
    total = sum(parts[1:], start=parts[0])
    whole, rest = moments_of(x, y, 9), total - parts[0]
    for name in ("x", "y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name))
        torch.testing.assert_close(getattr(rest, name), getattr(parts[1], name))
    torch.testing.assert_close(total.columns(slice(1, 3)).xx, moments_of(x[:, 1:3], y, 9).xx)
    weight, bias = random(4, 2, seed=2), random(2, seed=3)
    assert total.squared_error(weight, bias) == pytest.approx(float((y - x @ weight - bias).square().sum()))
    assert total.variation() == pytest.approx(float((y - y.mean(0)).square().sum()))
    with pytest.raises(ValueError, match="no rows are left"):
        total - total


@pytest.mark.parametrize(("num_rows", "num_columns"), [(40, 6), (6, 11)])
def test_solutions_are_those_of_the_normal_equations(num_rows, num_columns):
    x, y = 5 + random(num_rows, num_columns) * torch.logspace(-2, 2, num_columns), random(num_rows, 2, seed=1)
    ridges = [1e-3, 0.1, 10.0]
    for size in (num_rows, 5):
        for ridge, (weight, bias) in zip(ridges, moments_of(x, y, size).solve(ridges), strict=True):
            expected = brute_force(x, y, torch.ones(num_rows, dtype=x.dtype), ridge)
            torch.testing.assert_close(x @ weight + bias, x @ expected[0] + expected[1], rtol=1e-8, atol=1e-8)


def test_a_weight_counts_a_row_as_often():
    x, y = random(12, 4), random(12, 2, seed=1)
    weights = torch.tensor([1, 3, 0, 2] * 3, dtype=torch.float64)
    times = weights.long()
    repeated = moments_of(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), 99)
    for size in (12, 5, 1):
        weighted = moments_of(x, y, size, weights)
        assert weighted.count == repeated.count == 18
        for name in ("x", "y", "xx", "xy", "yy"):
            torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))
    ((weight, bias),) = moments_of(x, y, 5, weights / 7).solve([0.3])
    expected = brute_force(x, y, weights, 0.3)
    torch.testing.assert_close(x @ weight + bias, x @ expected[0] + expected[1], rtol=1e-8, atol=1e-8)


def test_constant_and_repeated_columns_are_borne():
    x, y = random(20, 5), random(20, 1, seed=1)
    x[:, 1], x[:, 3] = 7.1, x[:, 0]
    for size in (20, 3):
        ((weight, bias),) = moments_of(x, y, size).solve([1e-3])
        assert not weight[1].any()
        torch.testing.assert_close(weight[0], weight[3], rtol=1e-6, atol=1e-8)
        assert torch.isfinite(bias).all()


def test_many_systems_are_solved_at_once():
    rows, right = random(3, 8, 5), random(3, 5, 2, seed=1)
    gram = rows.transpose(1, 2) @ rows
    solved = damped_solve(gram, right, 0.5)
    torch.testing.assert_close(gram @ solved + 0.5 * solved, right)


def test_a_trace_in_one_row_gets_no_weight_that_decides_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator).double()
    y = x[:, :2] + 0.1 * torch.randn(30, 2, generator=generator).double()
    x[:, 4], x[:, 5] = 0, 2
    x[3, 4] = 3e-7
    moments = Moments.zeros(6, 2)
    moments.add(x, y)
    ((weight, _),) = moments.solve([1e-3])
    assert 0 < weight[4].abs().max() < 1
    assert (weight[5] == 0).all()
