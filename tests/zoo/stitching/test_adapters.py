from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from zoo.chain.batches import Batches
from zoo.chain.costs import count
from zoo.chain.signals import Signal, to_grid
from zoo.errors import UserError
from zoo.stitching import closed_form
from zoo.stitching.adapters import Adapter, adapter_costs, closed_form_adapter, from_grid, resize
from zoo.stitching.closed_form import PatchMoments, choose

SIGNALS = (
    Signal("NCHW", 5, (7, 5)),
    Signal("NCHW", 4, (3, 8)),
    Signal("NHWC", 6, (4, 4)),
    Signal("NLC", 8, (3, 5), num_prefix_tokens=2),
    Signal("NLC", 3, (6, 1)),
    Signal("NC", 7, None),
)
PAIRS = list(itertools.product(SIGNALS, SIGNALS))
VARIANTS = (("linear", 1), ("linear", 3), ("paper", 1))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "kernel_size"), VARIANTS)
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda signal: str(signal))
def test_all_pairs_give_the_target_signal_at_the_stated_cost(source, target, kind, kernel_size):
    adapter = Adapter(source, target, kind=kind, kernel_size=kernel_size)
    assert adapter(random(*source.shape(3))).shape == target.shape(3)
    assert adapter_costs(source, target, kind, kernel_size) == count(adapter, torch.zeros(source.shape(1)))
    inputs, targets = random(*source.shape(6)), random(*target.shape(6), seed=1)
    fit = closed_form_adapter(source, target, inputs, targets, kind=kind, kernel_size=kernel_size)
    assert fit.adapter.state_dict().keys() == adapter.state_dict().keys()
    assert fit.adapter(inputs).shape == targets.shape


def test_every_layout_keeps_the_positions_in_place():
    x = random(2, 6, 3, 4)
    for layout in ("NCHW", "NHWC", "NLC"):
        assert torch.equal(to_grid(from_grid(x, Signal(layout, 6, (3, 4))), Signal(layout, 6, (3, 4))), x)


def test_order_is_resize_norm_projection_activation_layout_prefix():
    source, target = Signal("NLC", 4, (6, 4), num_prefix_tokens=1), Signal("NLC", 5, (3, 2), num_prefix_tokens=2)
    adapter = Adapter(source, target, kind="paper", generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        adapter.norm.weight.copy_(random(4))
        adapter.projection.bias.copy_(random(5))
    x = random(8, 25, 4)
    grid = F.avg_pool2d(x[:, 1:].transpose(1, 2).reshape(8, 4, 6, 4), 2)
    normed = (grid - grid.mean((0, 2, 3), keepdim=True)) / (
        grid.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    normed = normed * adapter.norm.weight[:, None, None]
    mapped = torch.einsum("oc,nchw->nohw", adapter.projection.weight[:, :, 0, 0], normed)
    mapped = F.leaky_relu(mapped + adapter.projection.bias[:, None, None], 0.1)
    tokens = mapped.flatten(2).transpose(1, 2)
    expected = torch.cat([adapter.prefix.expand(8, -1, -1), tokens], 1)
    torch.testing.assert_close(adapter.train()(x), expected, rtol=1e-4, atol=1e-5)


def test_resize_averages_where_it_shrinks_and_interpolates_where_it_grows():
    x = random(2, 3, 7, 4)
    assert resize(x, (7, 4)) is x
    torch.testing.assert_close(resize(x, (1, 1)), x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(resize(x, (3, 2)), F.interpolate(x, (3, 2), mode="area"))
    torch.testing.assert_close(resize(x, (9, 8)), F.interpolate(x, (9, 8), mode="bilinear"))
    tall = F.interpolate(F.interpolate(x, (5, 4), mode="area"), (5, 8), mode="bilinear")
    torch.testing.assert_close(resize(x, (5, 8)), tall)


def test_random_weights_come_from_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = (
        Adapter(SIGNALS[0], SIGNALS[3], generator=torch.Generator().manual_seed(seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projection.weight"], other["projection.weight"])
    assert not torch.equal(first["prefix"], other["prefix"])


def test_random_weights_keep_the_variance():
    source, target = Signal("NCHW", 64, (8, 8)), Signal("NCHW", 512, (8, 8))
    for kernel_size in (1, 3):
        y = Adapter(source, target, kernel_size=kernel_size)(random(8, 64, 8, 8))
        assert y[:, :, 1:-1, 1:-1].var().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_closed_form_is_the_brute_force_ridge_solution(kernel_size):
    source, target = Signal("NHWC", 3, (4, 5)), Signal("NCHW", 2, (4, 5))
    x, y = 5 + 3 * random(12, 4, 5, 3), random(12, 2, 4, 5, seed=1) - 2
    fit = closed_form_adapter(source, target, x, y, kernel_size=kernel_size)

    convolution_input = x.permute(0, 3, 1, 2).double()
    patches = F.unfold(convolution_input, kernel_size, padding=kernel_size // 2)
    rows = patches.transpose(1, 2).reshape(-1, 3 * kernel_size**2)
    values = y.double().permute(0, 2, 3, 1).reshape(-1, 2)
    mean, deviation = rows.mean(0), rows.std(0, unbiased=False)
    standardised = (rows - mean) / deviation
    penalty = fit.ridge * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(standardised.T @ standardised + penalty, standardised.T @ (values - values.mean(0)))
    weight = (solution / deviation[:, None]).T
    bias = values.mean(0) - weight @ mean

    torch.testing.assert_close(fit.adapter.projection.weight.double().flatten(1), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fit.adapter.projection.bias.double(), bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_error_is_that_of_refits_without_each_fold_of_images(kernel_size):
    x, y = random(10, 3, 4, 4), random(10, 2, 4, 4, seed=1)
    y += F.conv2d(x, random(2, 3, 3, 3, seed=2), padding=1)
    moments = PatchMoments(3, 2, kernel_size, (4, 4), len(x), seed=5)
    moments.add(x, y)
    solution = choose(moments, [kernel_size], ridges=[0.01])

    squared_error = 0.0
    for fold in range(4):
        left_out = moments.fold_of_image == fold
        refit = PatchMoments(3, 2, kernel_size, (4, 4), int((~left_out).sum()), seed=0)
        refit.add(x[~left_out], y[~left_out])
        without = choose(refit, [kernel_size], ridges=[0.01])
        predicted = F.conv2d(x[left_out].double(), without.weight, without.bias, padding=kernel_size // 2)
        squared_error += float((predicted - y[left_out]).square().sum())
    total = float((y.double() - y.double().mean((0, 2, 3), keepdim=True)).square().sum())
    assert solution.error == pytest.approx(squared_error / total, rel=1e-6)


@pytest.mark.parametrize(("true_size", "noise"), [(1, 0.5), (3, 0.5)])
def test_auto_finds_the_kernel_size_of_a_true_convolution(true_size, noise):
    signal_in, signal_out = Signal("NCHW", 4, (6, 6)), Signal("NHWC", 3, (6, 6))
    weight = random(3, 4, true_size, true_size)
    x = random(40, 4, 6, 6, seed=1)
    y = F.conv2d(x, weight, bias=torch.tensor([1.0, 2.0, -30.0]), padding=true_size // 2)
    y = (y + noise * random(*y.shape, seed=2)).permute(0, 2, 3, 1)
    fit = closed_form_adapter(signal_in, signal_out, x, y)
    assert fit.adapter.kernel_size == true_size
    torch.testing.assert_close(fit.adapter.projection.weight, weight, rtol=0, atol=0.1)
    alone = closed_form_adapter(signal_in, signal_out, x, y, kernel_size=true_size)
    assert torch.equal(alone.adapter.projection.weight, fit.adapter.projection.weight)
    assert alone.error == pytest.approx(fit.error, rel=1e-12)


def test_paper_kind_is_the_linear_solution_behind_a_norm_where_home_features_are_positive():
    source, target = Signal("NCHW", 4, (6, 5)), Signal("NLC", 3, (3, 5), num_prefix_tokens=1)
    x, home = 3 + 2 * random(20, 4, 6, 5), random(20, 16, 3, seed=1).relu()
    linear = closed_form_adapter(source, target, x, home, kernel_size=1)
    paper = closed_form_adapter(source, target, x, home, kind="paper")
    assert paper.error == pytest.approx(linear.error, rel=1e-4)
    expected = F.leaky_relu(linear.adapter(x)[:, 1:], 0.1)
    torch.testing.assert_close(paper.adapter.eval()(x)[:, 1:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(paper.adapter.norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(paper.adapter.norm.running_var, x.var((0, 2, 3)))


def test_paper_kind_allows_for_its_activation_on_negative_home_features():
    signal = Signal("NCHW", 4, (6, 6))
    x = random(60, 4, 6, 6)
    home = F.leaky_relu(torch.einsum("oc,nchw->nohw", random(4, 4, seed=1), x), 0.1)
    fitted = closed_form_adapter(signal, signal, x, home, kind="paper").adapter.eval()
    unaware = F.leaky_relu(closed_form_adapter(signal, signal, x, home, kernel_size=1).adapter(x), 0.1)
    assert (fitted(x) - home).square().mean() < 0.6 * (unaware - home).square().mean()


def test_closed_form_prefix_is_the_mean_at_home():
    source, target = Signal("NCHW", 4, (2, 2)), Signal("NLC", 3, (2, 2), num_prefix_tokens=2)
    home = random(7, 6, 3)
    fit = closed_form_adapter(source, target, random(7, 4, 2, 2, seed=1), home)
    torch.testing.assert_close(fit.adapter.prefix, home[:, :2].mean(0, keepdim=True))


@pytest.mark.parametrize("num_images", [2, 3])
def test_few_images_and_channels_without_variance(num_images):
    source, target = Signal("NCHW", 6, (3, 3)), Signal("NCHW", 4, (3, 3))
    x, y = random(num_images, 6, 3, 3), random(num_images, 4, 3, 3, seed=1)
    x[:, 2], y[:, 1] = 7.1, -3.3
    fit = closed_form_adapter(source, target, x, y, kernel_size=1)
    assert torch.isfinite(fit.adapter.projection.weight).all()
    assert not fit.adapter.projection.weight[:, 2].any()
    torch.testing.assert_close(fit.adapter(x)[:, 1], y[:, 1], rtol=1e-5, atol=1e-5)


def test_constant_targets_leave_nothing_to_explain():
    signal = Signal("NCHW", 2, (2, 2))
    fit = closed_form_adapter(signal, signal, random(4, 2, 2, 2), torch.zeros(4, 2, 2, 2))
    assert fit.error == 0
    assert not fit.adapter.projection.weight.any()


def test_pieces_do_not_change_the_solution(monkeypatch):
    source, target = SIGNALS[0], SIGNALS[3]
    x, y = random(*source.shape(9)), random(*target.shape(9), seed=1)
    whole = closed_form_adapter(source, target, x, y, kernel_size=3)
    monkeypatch.setattr(closed_form, "_CHUNK_ELEMENTS", 1)
    piecewise = closed_form_adapter(source, target, x, y, kernel_size=3)
    torch.testing.assert_close(piecewise.adapter.projection.weight, whole.adapter.projection.weight)
    assert piecewise.error == pytest.approx(whole.error)


def test_drawn_positions_are_seeded_and_find_the_same_convolution(monkeypatch):
    monkeypatch.setattr(closed_form, "MAX_POSITIONS", 40 * 20)
    signal = Signal("NCHW", 3, (8, 8))
    x = random(40, 3, 8, 8)
    weight = random(3, 3, 3, 3, seed=1)
    y = F.conv2d(x, weight, padding=1)
    fits = [closed_form_adapter(signal, signal, x, y, seed=seed) for seed in (0, 0, 1)]
    torch.testing.assert_close(fits[0].adapter.projection.weight, weight, rtol=0, atol=2e-3)
    assert torch.equal(fits[0].adapter.projection.weight, fits[1].adapter.projection.weight)
    assert not torch.equal(fits[0].adapter.projection.weight, fits[2].adapter.projection.weight)


@pytest.mark.parametrize("kind", ["linear", "paper"])
def test_features_that_come_in_batches_give_the_same_adapter(kind, monkeypatch):
    monkeypatch.setattr(closed_form, "MAX_POSITIONS", 41 * 20)  # positions are drawn
    source, target = Signal("NCHW", 3, (6, 5)), Signal("NLC", 4, (6, 5), num_prefix_tokens=1)
    x, y = 3 + random(*source.shape(41)), random(*target.shape(41), seed=1)
    whole = closed_form_adapter(source, target, x, y, kind=kind)
    for size in (1, 7, 40):
        parts = [Batches(41, partial(rows.split, size)) for rows in (x, y)]
        streamed = closed_form_adapter(source, target, *parts, kind=kind)
        assert (streamed.ridge, streamed.adapter.kernel_size) == (whole.ridge, whole.adapter.kernel_size)
        assert streamed.error == pytest.approx(whole.error, rel=1e-8)
        for name, tensor in whole.adapter.state_dict().items():
            torch.testing.assert_close(streamed.adapter.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "procrustes"}, ["procrustes", "linear", "paper"]),
        ({"kernel_size": 5}, ["5", "1 or 3"]),
        ({"kind": "paper", "kernel_size": 3}, ["3", "paper", "1"]),
    ],
)
def test_unknown_variants_are_refused(settings, words):
    with pytest.raises(UserError) as refusal:
        Adapter(SIGNALS[0], SIGNALS[1], **settings)
    assert "\n" not in str(refusal.value)
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize(("num_inputs", "num_targets"), [(1, 1), (3, 4)])
def test_images_that_do_not_match_are_refused(num_inputs, num_targets):
    inputs, targets = torch.zeros(num_inputs, 4, 3, 8), torch.zeros(num_targets, 4, 3, 8)
    with pytest.raises(UserError, match=f"{num_inputs} incoming and {num_targets} home"):
        closed_form_adapter(SIGNALS[1], SIGNALS[1], inputs, targets)


def test_too_many_channels_for_a_closed_form_3x3():
    wide, narrow = Signal("NCHW", 1025, (2, 2)), Signal("NCHW", 2, (2, 2))
    x, y = random(4, 1025, 2, 2), random(4, 2, 2, 2, seed=1)
    assert closed_form_adapter(wide, narrow, x, y).adapter.kernel_size == 1
    with pytest.raises(UserError, match="3x3 over 1025 channels does not fit into memory; use kernel_size=auto or 1"):
        closed_form_adapter(wide, narrow, x, y, kernel_size=3)


@pytest.mark.parametrize(("place", "name"), [(0, "incoming"), (1, "home")])
def test_features_that_are_not_finite_are_refused(place, name):
    signal = Signal("NCHW", 2, (2, 2))
    features = [random(4, 2, 2, 2), random(4, 2, 2, 2, seed=1)]
    features[place][1, 1, 0, 1] = float("nan")
    with pytest.raises(UserError, match=f"the {name} features are not finite"):
        closed_form_adapter(signal, signal, *features)


@pytest.mark.parametrize("signal", SIGNALS, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_residual_adapter_is_the_identity_bit_for_bit_until_it_is_trained(signal, kernel_size):
    adapter = Adapter(signal, signal, kernel_size=kernel_size, is_residual=True)
    x = torch.randn(signal.shape(3), generator=torch.Generator().manual_seed(0)) * 1e3
    assert torch.equal(adapter(x), x)
    costs = count(adapter, torch.zeros(signal.shape(1)))
    assert costs == adapter_costs(signal, signal, "linear", kernel_size)
    adapter(x).square().sum().backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in adapter.parameters())
    with pytest.raises(ValueError, match="residual"):
        Adapter(signal, signal, kind="paper", is_residual=True)
