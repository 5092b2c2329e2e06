"""Every measure against its explicit formula, and what the formulas promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from reassembly.similarity import SIMILARITIES, similarity_matrix
from reassembly.similarity.cka import KernelAlignment, linear_cka, rbf_cka
from reassembly.similarity.products import gram, spd_inverse
from reassembly.similarity.subspace import linear_regression, svcca
from zoo.errors import UserError


def random_features(seed: int, num_samples: int, *channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(num_samples, 6, generator=generator)
    features = []
    for width in channels:
        mix, noise = torch.randn(6, width, generator=generator), torch.randn(num_samples, width, generator=generator)
        features.append((latent @ mix + noise).relu() + 3.0)
    return features


def similarity_of(features, name, **options):
    """By the measure of that name, to whose probe images those that need any give labels."""
    labels = {"labels": torch.arange(len(features[0])) % 3} if name == "probe_kl" else {}
    return similarity_matrix(features, name, **labels, **options)


def tolerance(name, exact=1e-12):
    """Of measures whose matrices are float32, and of the others."""
    return 1e-6 if name in ("linear_cka", "probe_kl") else exact


def explicit_hsic(k: np.ndarray, l: np.ndarray, unbiased: bool) -> float:
    n = len(k)
    if not unbiased:
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ h @ l @ h) / (n - 1) ** 2
    k, l, one = k - np.diag(np.diag(k)), l - np.diag(np.diag(l)), np.ones(n)
    cross = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + cross - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def explicit_cka(kernels: list[np.ndarray], unbiased: bool) -> np.ndarray:
    hsic = np.array([[explicit_hsic(k, l, unbiased) for l in kernels] for k in kernels])
    return hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))


def explicit_rbf_kernel(x: np.ndarray, bandwidth: float) -> np.ndarray:
    distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    sigma = bandwidth * np.median(distances[np.triu_indices(len(x), 1)])
    return np.exp(-(distances**2) / (2 * sigma**2))


@pytest.mark.parametrize("unbiased", [True, False])
def test_exact_linear_cka_is_the_explicit_formula(unbiased):
    features = random_features(0, 23, 3, 30, 7)
    kernels = [x.double().numpy() @ x.double().numpy().T for x in features]
    np.testing.assert_allclose(
        linear_cka(features, batch_size=None, unbiased=unbiased), explicit_cka(kernels, unbiased), atol=1e-12
    )


@pytest.mark.parametrize("unbiased", [True, False])
def test_exact_rbf_cka_is_the_explicit_formula(unbiased):
    features = random_features(1, 19, 3, 30, 7)  # an odd number of pairs: one middle distance
    kernels = [explicit_rbf_kernel(x.double().numpy(), 0.6) for x in features]
    value = rbf_cka(features, bandwidth=0.6, batch_size=None, unbiased=unbiased)
    np.testing.assert_allclose(value, explicit_cka(kernels, unbiased), atol=1e-12)


def test_minibatches_add_up_hsic_before_the_quotient():
    features = random_features(2, 21, 4, 9)
    batches = [[x.double().numpy()[start::3] for x in features] for start in range(3)]
    hsic = np.zeros((2, 2))
    for batch in batches:
        for i, j in itertools.product(range(2), repeat=2):
            hsic[i, j] += len(batch[0]) * explicit_hsic(batch[i] @ batch[i].T, batch[j] @ batch[j].T, unbiased=True)
    expected = hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))
    np.testing.assert_allclose(linear_cka(features, batch_size=7), expected, atol=1e-7, rtol=0)  # float32 matrices


@pytest.mark.parametrize("measure", [linear_cka, rbf_cka])
def test_minibatch_estimate_is_near_the_exact_one(measure):
    features = random_features(3, 1500, 8, 20, 5)
    assert (measure(features, batch_size=256) - measure(features, batch_size=None)).abs().max() < 0.02


def test_matrices_in_float32_are_as_good_as_in_float64():
    plain = random_features(8, 512, 3, 40, 300)
    generator = torch.Generator().manual_seed(2)
    outlier = plain[1].clone()
    outlier[7] *= 300
    sparse = (torch.rand(512, 64, generator=generator) < 0.02).float() * torch.rand(512, 64, generator=generator)
    features = [*plain, plain[1] * 1e25, plain[0] * 1e-25, plain[2] + 1e3, outlier, sparse, torch.relu(plain[2])]
    alignment = KernelAlignment(dtype=torch.float64)
    for start in range(2):
        alignment.update([x[start::2] for x in features])
    difference = (linear_cka(features) - alignment.compute()).abs()
    assert difference.max() < 2e-6
    assert difference.diagonal().max() < 1e-12


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_number_of_threads_changes_no_more_than_rounding(name):
    features = random_features(9, 512, 20, 130)
    one = similarity_of(features, name)
    torch.set_num_threads(2)
    try:
        two = similarity_of(features, name)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(two, one, atol=tolerance(name), rtol=0)


def test_biased_batches_overestimate_where_unbiased_do_not():
    features = [torch.randn(1024, 200, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert linear_cka(features)[off_diagonal].abs().max() < 0.02
    assert linear_cka(features, batch_size=None, unbiased=False)[off_diagonal].min() > 0.1


@pytest.mark.parametrize("num_samples", [4, 5, 7, 8, 9, 13])
def test_no_number_of_images_leaves_a_batch_too_short(num_samples):
    features = random_features(4, num_samples, 3, 5)
    torch.testing.assert_close(linear_cka(features, batch_size=4).diagonal(), torch.ones(2, dtype=torch.float64))


def test_images_sorted_by_class_do_not_bias_the_batches():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(64)
    means = [torch.randn(8, width, generator=generator) for width in (6, 10)]
    features = [mean[labels] + 0.3 * torch.randn(512, mean.shape[1], generator=generator) for mean in means]
    assert (linear_cka(features, batch_size=64) - linear_cka(features, batch_size=None)).abs().max() < 0.03


@pytest.mark.parametrize("name", SIMILARITIES)
def test_itself_rotations_and_scales_are_fully_similar(name):
    x = random_features(5, 90, 12)[0].double()
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    similarity = similarity_of([x, x @ rotation, 1e-7 * x + 1e-6, 3e8 * x], name)
    ones = torch.ones(4, 4, dtype=torch.float64)
    torch.testing.assert_close(similarity, ones, atol=tolerance(name, 1e-9), rtol=0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_order_of_nodes_does_not_matter(name):
    features = random_features(6, 64, 3, 8, 5)
    similarity = similarity_of(features, name)
    torch.testing.assert_close(similarity_of(features[::-1], name), similarity.flip(0, 1), atol=tolerance(name), rtol=0)


def test_streaming_equals_the_function():
    features = random_features(7, 60, 5, 8)
    alignment = KernelAlignment()
    for start in range(3):
        alignment.update([x[start::3] for x in features])
    assert torch.equal(alignment.compute(), linear_cka(features, batch_size=20))


def explicit_r2(x: np.ndarray, y: np.ndarray, ridge: float) -> float:
    """Least squares by ``lstsq``, or leave-one-out ridge by refitting without every image in turn."""
    if ridge == 0:
        design = np.hstack([x, np.ones((len(x), 1))])
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        return 1 - (residual**2).sum() / ((y - y.mean(0)) ** 2).sum()
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)[: len(x) - 1]
    penalty = ridge * (singular**2).mean()
    errors, baseline = 0.0, 0.0
    for k in range(len(x)):
        rest = np.arange(len(x)) != k
        mean_x, mean_y = x[rest].mean(0), y[rest].mean(0)
        a, b = x[rest] - mean_x, y[rest] - mean_y
        weight = np.linalg.solve(a.T @ a + penalty * np.eye(x.shape[1]), a.T @ b)
        errors += ((y[k] - mean_y - (x[k] - mean_x) @ weight) ** 2).sum()
        baseline += ((y[k] - mean_y) ** 2).sum()
    return max(0.0, 1 - errors / baseline)


@pytest.mark.parametrize(("ridge", "atol"), [(0.0, 1e-9), (0.005, 1e-9), (0.05, 3e-6)])
def test_regression_is_least_squares_and_asymmetric(ridge, atol):
    features = random_features(8, 40, 3, 12, 6, *([25, 60] if ridge else []))  # thin, and wide: of more than n / 2
    expected = [[explicit_r2(x.double().numpy(), y.double().numpy(), ridge) for y in features] for x in features]
    value = linear_regression(features, ridge=ridge)
    np.testing.assert_allclose(value, expected, atol=atol)
    assert (value - value.T).abs().max() > 0.01


def test_regression_in_float32_is_as_good_as_in_float64(monkeypatch):
    features = random_features(15, 300, 3, 60, 140, 280, 700)
    outlier = features[2].clone()
    outlier[7] *= 300
    features += [outlier, features[1] * 1e25, features[3] * 1e-25, torch.cat([features[1], features[1]], 1)]
    value = linear_regression(features, ridge=0.1)
    monkeypatch.setattr("reassembly.similarity.subspace.LEAST_RIDGE_IN_FLOAT32", 1.0)
    torch.testing.assert_close(value, linear_regression(features, ridge=0.1), atol=1e-4, rtol=0)


def test_a_channel_that_does_not_vary_changes_no_regression():
    features = random_features(16, 40, 3, 12)
    padded = [torch.cat([x, torch.full((40, 5), 2.0)], 1) for x in features]
    expected = linear_regression(features, ridge=0.1)
    torch.testing.assert_close(linear_regression(padded, ridge=0.1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_rows", [1, 5, 256, 257, 515])
def test_symmetric_products_and_inverses(num_rows):
    x = torch.randn(num_rows, 40, generator=torch.Generator().manual_seed(num_rows), dtype=torch.float64)
    product = gram(x)
    torch.testing.assert_close(product, x @ x.T, atol=1e-12, rtol=0)
    damped = product + torch.eye(num_rows, dtype=torch.float64)
    inverse = spd_inverse(damped)
    assert torch.equal(inverse, inverse.T)
    torch.testing.assert_close(inverse, torch.linalg.inv(damped), atol=1e-11, rtol=0)


def test_strips_do_not_change_the_regression(monkeypatch):
    features = random_features(9, 40, 3, 12)
    expected = [linear_regression(features, ridge=ridge) for ridge in (0.0, 0.1)]
    monkeypatch.setattr("reassembly.similarity.subspace.STRIP_NUMBERS", 7 * 2 * 2 * 40)
    for ridge, value, atol in zip((0.0, 0.1), expected, (1e-12, 1e-6), strict=True):
        torch.testing.assert_close(linear_regression(features, ridge=ridge), value, atol=atol, rtol=0)


def test_in_sample_regression_on_too_few_images_is_refused():
    features = random_features(10, 20, 4, 30)
    with pytest.raises(
        UserError, match=r"node 1 span all 19 dimensions.*20 probe images.*raise similarity\.num_probe_images"
    ):
        linear_regression(features)
    assert 0 < linear_regression(features, ridge=0.1)[1, 0] < 1


def test_svcca_is_the_mean_canonical_correlation():
    features = random_features(11, 50, 4, 9)
    x, y = (feature.double().numpy() - feature.double().numpy().mean(0) for feature in features)

    def whiten(z):
        values, vectors = np.linalg.eigh(z.T @ z)
        return z @ vectors / np.sqrt(values)

    expected = np.linalg.svd(whiten(x).T @ whiten(y), compute_uv=False).mean()
    assert svcca(features, explained_variance=1.0)[0, 1] == pytest.approx(expected, abs=1e-9)


def test_svcca_keeps_the_leading_components():
    signal = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    noise = 1e-3 * torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    similarity = svcca([signal, torch.cat([signal, noise], dim=1)], explained_variance=0.99)
    assert similarity[0, 1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_dead_features_have_similarity_zero(name):
    alive = random_features(12, 40, 5, 6)
    rounding = 1000.0 + 6e-5 * torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(0))
    dead = [torch.zeros(40, 4), torch.full((40, 3), 0.1), rounding]
    similarity = similarity_of([alive[0], *dead, alive[1]], name)
    assert torch.isfinite(similarity).all()
    assert not similarity[1:4].any()
    assert not similarity[:, 1:4].any()
    torch.testing.assert_close(similarity[::4, ::4], similarity_of(alive, name), atol=tolerance(name), rtol=0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_features_that_fire_on_one_image_stay_finite(name):
    spike = torch.zeros(40, 3)
    spike[7] = 5.0
    similarity = similarity_of([spike, *random_features(13, 40, 5)], name)
    assert torch.isfinite(similarity).all()
    assert similarity.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("name", SIMILARITIES)
def test_bad_features_are_refused_by_node(name):
    features = random_features(14, 40, 5, 6)
    features[1][3, 2] = float("nan")
    with pytest.raises(UserError, match="features of node 1 hold NaN or infinity"):
        similarity_of(features, name)
    with pytest.raises(UserError, match="features of the stem of 'b' hold NaN or infinity"):
        similarity_of(features, name, names=["the stem of 'a'", "the stem of 'b'"])
    with pytest.raises(UserError, match="similarity on 3 probe images: this measure needs at least 4"):
        similarity_of(random_features(0, 3, 2), name)


def test_unknown_measure_lists_the_known():
    with pytest.raises(
        UserError, match=r"unknown similarity 'cosine': choose similarity\.measure=linear_cka \| rbf_cka"
    ):
        similarity_matrix(random_features(0, 8, 2), "cosine")
