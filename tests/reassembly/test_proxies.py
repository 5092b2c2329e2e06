"""Each proxy against its definition, written out the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from scipy.optimize import minimize
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.nn.functional import one_hot

from reassembly.prefix_tree import ScoringData
from reassembly.proxies import PROXIES, find_proxy
from reassembly.proxies.controls import random_score
from reassembly.proxies.leep import as_probabilities, leep_score
from reassembly.proxies.logme import logme_score
from reassembly.proxies.naswot import DIAGONAL, CodeRecorder, code_kernel, naswot_score
from reassembly.proxies.nleep import nleep_score, principal_components
from reassembly.proxies.ridge import ridge_score
from reassembly.scoring import Scorer
from reassembly.settings import ProxySettings
from tuning.ridge import RIDGES
from zoo.errors import UserError


def draw(n: int, d: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, d, generator=generator)
    return centres[labels] + 2 * torch.randn(n, d, generator=generator) + 3, labels


# ---- ridge


def refit_without(features, labels, num_classes, left_out, ridge):
    """Predicts one sample from a ridge fit on all the others (at the scale of all)."""
    x = ((features - features.mean(0)) / features.std(0, correction=0)).double()
    y = one_hot(labels, num_classes).double()
    rest = [i for i in range(len(x)) if i != left_out]
    centre, prior = x[rest].mean(0), y[rest].mean(0)
    z = x[rest] - centre
    weight = torch.linalg.solve(z.T @ z + ridge * torch.eye(x.shape[1]).double(), z.T @ (y[rest] - prior))
    return (x[left_out] - centre) @ weight + prior


@pytest.mark.parametrize(("n", "d"), [(24, 7), (16, 30)])
def test_ridge_equals_an_explicit_leave_one_out_loop(n, d):
    features, labels = draw(n, d, 3)
    targets = one_hot(labels, 3).double()
    by_ridge = []
    for ridge in RIDGES:
        predictions = torch.stack([refit_without(features, labels, 3, i, ridge) for i in range(n)])
        accuracy = (predictions.argmax(1) == labels).double().mean().item()
        by_ridge.append(((predictions - targets).square().mean().item(), accuracy))
    error, accuracy = min(by_ridge)
    assert ridge_score(features, labels, 3) == pytest.approx(accuracy - error / (1 + error) / n, abs=1e-9)


def test_ridge_prefers_accuracy_first_and_the_smaller_error_at_equal_accuracy():
    features, labels = draw(60, 5, 2)
    noise = torch.randn(60, 1, generator=torch.Generator().manual_seed(1))
    clear, blurred = (torch.cat([labels[:, None] + level * noise, features], 1) for level in (0.01, 0.1))
    scores = [ridge_score(x, labels, 2) for x in (clear, blurred, features)]
    assert min(scores[:2]) > 1 - 1 / 60
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


# ---- LogME


def log_evidence(alpha: float, beta: float, f: np.ndarray, y: np.ndarray) -> float:
    """log N(y; 0, I / beta + F F' / alpha), the definition."""
    covariance = np.eye(len(y)) / beta + f @ f.T / alpha
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (len(y) * math.log(2 * math.pi) + logdet + y @ np.linalg.solve(covariance, y))


@pytest.mark.parametrize(("n", "d", "copies"), [(40, 6, 1), (20, 6, 5)])
def test_logme_equals_the_evidence_maximised_by_brute_force(n, d, copies):
    features, labels = draw(n, d, 3, seed=1)
    features = features.repeat(1, copies)
    f, targets = features.double().numpy(), one_hot(labels, 3).double().numpy()
    best = []
    for y in targets.T:
        starts = [(a, b) for a in (-4.0, 0.0, 4.0) for b in (-1.0, 3.0)]
        results = [
            minimize(lambda p, y=y: -log_evidence(*np.exp(p), f, y), start, method="Nelder-Mead") for start in starts
        ]
        best.append(-min(result.fun for result in results) / n)
    assert logme_score(features, labels, 3) == pytest.approx(np.mean(best), abs=2e-4)


def test_logme_prefers_features_that_tell_the_labels():
    features, labels = draw(80, 10, 4)
    shuffled = labels[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    assert logme_score(features, labels, 4) > logme_score(features, shuffled, 4)


def test_logme_is_finite_on_constant_and_duplicated_features():
    features, labels = draw(30, 4, 3)
    features = torch.cat([features, features, torch.zeros(30, 3), torch.ones(30, 2)], 1)
    assert math.isfinite(logme_score(features, labels, 3))
    assert math.isfinite(logme_score(torch.zeros(30, 5), labels, 3))


# ---- NASWOT


def two_products(outputs: torch.Tensor) -> torch.Tensor:
    """The published form: units both on plus units both off."""
    on = (outputs.flatten(1) > 0).double()
    return on @ on.T + (1 - on) @ (1 - on).T


ACTIVATIONS = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.1), nn.ELU(), nn.GELU(), nn.GELU("tanh")]
ACTIVATIONS += [nn.SiLU(), nn.SiLU(inplace=True), nn.Hardswish(), nn.Mish(), nn.PReLU()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_naswot_equals_the_published_two_products_over_all_activations(activation):
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 16, 3), activation])
    x = torch.randn(6, 3, 9, 7)
    with torch.inference_mode(), CodeRecorder() as recorder:
        nn.Sequential(*layers)(x)
    expected = torch.zeros(6, 6).double()
    with torch.no_grad():
        for layer in layers:
            if layer is activation:
                expected += two_products(x)  # the sign of what comes in
            x = layer(x.clone())
    assert torch.equal(recorder.kernel, expected)
    sign, logdet = np.linalg.slogdet(expected.numpy() + DIAGONAL * np.eye(6))
    assert sign == 1
    assert naswot_score(recorder.kernel) == pytest.approx(logdet, rel=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mixer_s32_224", "mobilenetv3_small_050"])
def test_naswot_sees_the_units_of_every_family(name):
    network = timm.create_model(name, pretrained=False).eval()
    seen = []
    activations = [m for m in network.modules() if type(m).__name__ in ("ReLU", "GELU", "Hardswish")]
    for module in activations:
        module.register_forward_hook(lambda _m, _i, out: seen.append(code_kernel(out)))
    with torch.inference_mode(), CodeRecorder() as recorder:
        network(torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert seen
    assert torch.equal(recorder.kernel, sum(seen))


def test_naswot_of_equal_images_is_low_but_finite():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    twins = torch.cat([x[:3], x[:1]])
    assert math.isfinite(naswot_score(code_kernel(twins)))
    assert naswot_score(code_kernel(twins)) < naswot_score(code_kernel(x))
    assert naswot_score(None) == -math.inf


# ---- controls, registry, settings


def test_random_depends_on_composition_and_seed_alone():
    assert random_score("a[0:3] + b[3:5]", 1) == random_score("a[0:3] + b[3:5]", 1) == pytest.approx(0.5155, abs=0.5)
    values = {random_score(text, seed) for text in ("a[0:3]", "b[0:3]") for seed in (0, 1)}
    assert len(values) == 4
    assert all(0 <= value < 1 for value in values)


def test_every_proxy_states_its_name_needs_and_cost():
    for name, proxy in PROXIES.items():
        assert find_proxy(name) is proxy
        assert proxy.cost
        assert "\n" not in proxy.cost
        assert proxy.needs <= {"features", "codes", "outputs"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "naswto"}, "proxy.name=naswto is unknown; allowed are ridge, logme, leep, nleep, naswot"),
        ({"also": ("tse",)}, "tse is unknown"),
        ({"adapters": "ridge"}, "proxy.adapters=ridge is unknown; allowed are random, closed_form"),
        ({"num_draws": 0}, "proxy.num_draws=0 is out of range; allowed: at least 1"),
        ({"num_images": 1}, "proxy.num_images=1"),
        ({"batch_size": 1}, "proxy.batch_size=1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        ProxySettings(**settings)
    assert "\n" not in str(caught.value)


# ---- LEEP and N-LEEP


def leep_by_hand(theta: np.ndarray, labels: list[int], num_classes: int) -> float:
    """The definition, sum by sum."""
    n, z = theta.shape
    joint = [[sum(theta[i, k] for i in range(n) if labels[i] == y) / n for k in range(z)] for y in range(num_classes)]
    marginal = [sum(joint[y][k] for y in range(num_classes)) for k in range(z)]
    predicted = [
        sum(joint[labels[i]][k] / marginal[k] * theta[i, k] for k in range(z) if marginal[k]) for i in range(n)
    ]
    return sum(map(math.log, predicted)) / n


def test_leep_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(20, 5, generator=generator), torch.arange(20) % 3
    theta = logits.double().softmax(1)
    expected = leep_by_hand(theta.numpy(), labels.tolist(), 3)
    assert leep_score(theta, labels, 3) == pytest.approx(expected, abs=1e-12)
    assert leep_score(as_probabilities(logits), labels, 3) == pytest.approx(expected, abs=1e-12)
    assert leep_score(as_probabilities(theta.float()), labels, 3) == pytest.approx(expected, abs=1e-6)
    # By hand: two images of each label, a classifier of two classes that is sure of itself, once mistaken.
    theta = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    expected = (2 * math.log(2 / 3) + math.log(1) + math.log(1 / 3)) / 4
    assert leep_score(theta, torch.tensor([0, 0, 1, 1]), 2) == pytest.approx(expected)


def test_leep_is_0_for_a_classifier_that_knows_the_labels_and_lowest_for_one_that_says_nothing():
    labels = torch.arange(30) % 3
    sure, blank = one_hot(labels, 3).double(), torch.full((30, 7), 1 / 7)
    assert leep_score(sure, labels, 3) == pytest.approx(0, abs=1e-12)
    assert leep_score(sure[:, [2, 0, 1]], labels, 3) == pytest.approx(0, abs=1e-12)
    assert leep_score(blank, labels, 3) == pytest.approx(math.log(1 / 3))


def test_nleep_is_leep_of_the_clusters_of_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    plane = 20 * torch.randn(3, 2, generator=generator)[labels] + torch.randn(120, 2, generator=generator)
    features = torch.cat([plane, 0.01 * torch.randn(120, 9, generator=generator)], 1)
    x = (features - features.mean(0)).double()
    share = torch.linalg.svdvals(x).square().cumsum(0) / x.square().sum()
    reduced = principal_components(features, 0.8)
    rank = int((share < 0.8).sum()) + 1
    assert reduced.shape == (120, rank)
    spread = (x.square().sum() / x.numel()).sqrt()
    assert reduced.square().sum() == pytest.approx((share[rank - 1] * x.square().sum() / spread**2).item())
    posterior = GaussianMixture(15, random_state=3).fit(reduced.numpy()).predict_proba(reduced.numpy())
    expected = leep_by_hand(posterior, labels.tolist(), 3)
    assert nleep_score(features, labels, 3, seed=3) == pytest.approx(expected, abs=1e-9)
    shuffled = labels[torch.randperm(120, generator=generator)]
    assert nleep_score(features, labels, 3, seed=3) > nleep_score(features, shuffled, 3, seed=3) + 0.3


def test_nleep_is_finite_on_constant_and_few_features():
    labels = torch.arange(12) % 3
    assert nleep_score(torch.ones(12, 5), labels, 3, seed=0) == pytest.approx(math.log(1 / 3))
    assert math.isfinite(nleep_score(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), labels, 3, seed=0))
    assert math.isfinite(nleep_score(one_hot(labels, 3).float(), labels, 3, seed=0))


def test_images_of_which_nothing_can_be_left_out_are_refused_or_told(caplog):
    def scorer(proxy: str, labels: list[int]) -> None:
        Scorer({}, ScoringData(lambda name: torch.empty(0), torch.tensor(labels), 3), ProxySettings(name=proxy))

    for proxy in ("ridge", "ridge_cuts"):
        with pytest.raises(UserError, match=r"3 images score the candidates, no two of one class: .*dataset\.num_t"):
            scorer(proxy, [0, 1, 2])
    scorer("naswot", [0, 1, 2])
    assert caplog.messages == []
    scorer("ridge", [0, 0, 1, 1, 1])
    assert "1 of 3 classes have fewer than two" in caplog.text
