from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cloning_stand_ins import clone, cloned, images, network, small_data
from torch import nn

from cloning.measures import measure_accuracies
from cloning.rivals import RIVALS
from cloning.rivals.ensemble import Ensemble
from cloning.rivals.ewc import ewc, fisher
from cloning.rivals.fine_tune import fine_tune, joint
from cloning.rivals.problem import CloningProblem, num_copies
from cloning.rivals.training import ExpandedNetwork, RivalSettings
from cloning.samples import Samples
from datamodules.augmentation import Augmentation
from datamodules.correction import CorrectionData
from tuning.losses import distillation
from zoo.conversion import convert
from zoo.digests import digest
from zoo.errors import UserError

QUICK = RivalSettings(num_steps=3, batch_size=8)


def problem(exemplars: int = 3) -> CloningProblem:
    """A target that keeps two of its three classes, and two sources of other families that give three."""
    target, first, second = network("resnet", "abc"), network("regnety", "cde"), network("convnext", "efg")
    parts = cloned(target, clone(first, "d"), clone(second, "ef"))
    classes = ("f", "b", "d", "a", "e")  # in an order of its own
    question = type(parts)(target, classes, parts.clones, [None, None])
    wanted = {"classes": classes, "cloned": "def"}
    data, whole = (
        CorrectionData(small_data("abcdefg"), **{**wanted, **more})
        for more in (
            {"fraction": 0.5, "exemplars": exemplars},
            {"cloned": classes, "fraction": 1.0, "exemplars": 0},
        )
    )
    data.use_input(target.input)
    return CloningProblem(question, data, Samples(*whole.images("train", target.input)))


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("exemplars", [3, 0])
def test_every_rival_answers_the_problem_and_leaves_the_zoo_alone(name: str, exemplars: int) -> None:
    question = problem(exemplars)
    networks = question.network.networks()
    before = [n.digest() for n in networks], digest(question.network)
    first, second = (RIVALS[name](question, QUICK, seed=0) for _ in range(2))
    assert ([n.digest() for n in networks], digest(question.network)) == before
    assert all(p.grad is None for n in networks for p in n.chain.network.parameters())
    x, _ = question.data.images("test", question.target.input)
    with torch.no_grad():
        assert first(x).shape == (len(x), 5)
        assert torch.equal(first(x), second(x))
    found = question.accuracies(first, "test")
    assert found.classes.keys() == set(question.network.classes)
    assert found.mean == (found.original + found.cloned) / 2


def test_another_seed_gives_another_network() -> None:
    question = problem()
    assert digest(fine_tune(question, QUICK, seed=0)) != digest(fine_tune(question, QUICK, seed=1))


def test_the_measure_is_that_of_cloned_networks() -> None:
    question = problem()
    samples = Samples(*question.data.images("test", question.target.input))
    assert question.accuracies(question.network, "test") == measure_accuracies(question.network, samples)


def test_the_copy_starts_with_the_targets_own_logits() -> None:
    question = problem()
    expanded = ExpandedNetwork(question, seed=0)
    x = images(4)
    with torch.no_grad():
        logits = expanded(x)
    assert torch.equal(expanded.head.weight[[3, 1]], question.target.weight[[0, 1]])
    torch.testing.assert_close(logits[:, [3, 1]], question.target.logits(x)[:, [0, 1]])
    assert question.kept == ("b", "a")
    torch.testing.assert_close(question.target_logits(x), logits[:, question.kept_outputs])


def test_the_samples_have_distorted_copies_where_the_data_is_augmented() -> None:
    question = problem()
    plain = question.correction
    assert len(plain.labels) == question.data.num_images("train")
    question.data.augmentation = Augmentation("affine")
    copies = replace(question).correction
    n = len(plain.labels)
    assert len(copies.labels) == (1 + num_copies(question.data)) * n
    assert torch.equal(copies.images[:n], plain.images)
    assert all(torch.equal(part, plain.labels) for part in copies.labels.split(n))
    assert len({digest({"x": part}) for part in copies.images.split(n)}) == 1 + num_copies(question.data) == 5


def test_the_sources_teach_their_own_classes() -> None:
    question = problem()
    (first, _), (second, others) = question.source_logits(question.correction.images)
    assert (first, second) == ([2], [4, 0])  # d; e and f, in the order of the outputs f, b, d, a, e
    clone = question.network.clones[1]
    seen = convert(question.correction.images, question.target.input, clone.source.input)
    torch.testing.assert_close(others, clone.source.logits(seen)[:, [0, 1]])
    assert digest(fine_tune(question, QUICK, seed=0)) != digest(RIVALS["fine_tune_sources"](question, QUICK, seed=0))
    settings = RivalSettings(num_steps=30, batch_size=16, strength=0.0)
    alone, with_sources = (RIVALS[name](question, settings, seed=0) for name in ("lwf", "lwf_sources"))
    x = question.correction.images

    def distance(module: nn.Module) -> float:
        with torch.no_grad():
            return float(distillation(module(x)[:, second], others, temperature=2.0))

    assert distance(with_sources) < distance(alone)


def test_a_calibrated_ensemble_is_nowhere_worse_on_what_it_was_calibrated_on() -> None:
    question = problem(0)
    samples = Samples(*question.data.images("val", question.target.input))
    losses = []
    for name in ("ensemble_calibrated", "ensemble_logits"):
        with torch.no_grad():
            logits = RIVALS[name](question, QUICK, seed=0)(samples.images)
        losses.append(float(nn.functional.cross_entropy(logits, samples.labels)))
    assert losses[0] < losses[1]


def test_ranpac_is_ridge_regression_on_random_features() -> None:
    question = problem(0)
    found = RIVALS["ranpac"](question, RivalSettings(strength=1e-2), seed=0)
    old = question.complete.of([1, 3])
    kept, new = torch.tensor([1, 3])[old.labels], question.correction
    x, labels = torch.cat([old.images, new.images]), torch.cat([kept, new.labels])
    h = found.features(x).double()
    y = nn.functional.one_hot(labels, 5).double()
    gram = h.T @ h
    ridge = 1e-2 * gram.diagonal().mean()
    dual = h.T @ torch.linalg.solve(h @ h.T + ridge * torch.eye(len(h)), y)
    torch.testing.assert_close(found.prototypes.double(), dual.T, rtol=1e-4, atol=1e-8)


def test_joint_is_fine_tuning_on_everything() -> None:
    question = problem()
    everything = CloningProblem(question.network, question.data, question.correction)
    assert digest(joint(everything, QUICK, seed=0)) == digest(fine_tune(question, QUICK, seed=0))
    assert len(question.complete.labels) == 5 * 6
    assert torch.bincount(question.correction.labels).tolist() == [3] * 5


def test_fisher_is_the_mean_squared_gradient_of_single_samples() -> None:
    question = problem()
    model, x, outputs = ExpandedNetwork(question, seed=0), images(40), question.kept_outputs
    found = fisher(model, outputs, x, seed=5)

    generator, labels = torch.Generator().manual_seed(5), []
    for part in x.split(32):
        with torch.no_grad():
            labels.append(torch.multinomial(model(part)[:, outputs].softmax(1), 1, generator=generator)[:, 0])
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(x, torch.cat(labels), strict=True):
        model.zero_grad()
        model(image[None])[0, outputs].log_softmax(0)[label].backward()
        for name, parameter in model.named_parameters():
            wanted[name] += parameter.grad.square() / len(x)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6 * float(value.max()))
    new = [row for row in range(5) if row not in outputs]
    assert not found["head.weight"][new].any()
    assert found["head.weight"][outputs].any()


def test_fisher_of_logistic_regression_is_known() -> None:
    """E[(1 - p)^2 x^2 or p^2 x^2] over labels drawn from p: with many copies of one image it is p (1 - p) x^2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.3, -0.2, 0.1], [-0.4, 0.2, 0.5]]))
        model[1].bias.zero_()
    x = torch.tensor([1.0, -2.0, 0.5])
    p = float(model[1](x).detach().softmax(0)[0])
    found = fisher(model, [0, 1], x.view(1, 3, 1, 1).repeat(4000, 1, 1, 1), seed=0)
    torch.testing.assert_close(found["1.weight"], p * (1 - p) * x.square().expand(2, 3), rtol=0.1, atol=0)


def test_a_strong_penalty_holds_the_weights_that_matter_to_the_old_classes() -> None:
    question = problem()

    def moved(strength: float) -> float:
        settings = RivalSettings(num_steps=5, batch_size=8, learning_rate=1e-3, strength=strength)
        start, end = ExpandedNetwork(question, seed=0), ewc(question, settings, seed=0)
        information = fisher(start, question.kept_outputs, question.complete.images[:8], seed=0)
        pairs = zip(start.named_parameters(), end.parameters(), strict=True)
        return sum(float((information[name] * (b - a).detach().square()).sum()) for (name, a), b in pairs)

    assert moved(1e6) < 0.5 * moved(0.0)


def test_distillation_keeps_the_old_logits_nearer_to_the_targets() -> None:
    question = problem()
    x = question.correction.images

    def distance(strength: float) -> float:
        settings = RivalSettings(num_steps=20, batch_size=16, learning_rate=3e-3, strength=strength)
        with torch.no_grad():
            logits = RIVALS["lwf"](question, settings, seed=0)(x)[:, question.kept_outputs]
        return float(distillation(logits, question.target_logits(x), temperature=2.0))

    assert distance(10.0) < 0.5 * distance(0.0)


def test_ensembles_by_hand() -> None:
    question, x = problem(), images(3)
    target, (first, second) = question.target, question.network.clones
    wanted = []
    for transform in (lambda z: z, lambda z: z.softmax(1).log()):
        outputs = [
            transform(n.logits(convert(x, target.input, n.input))) for n in (target, first.source, second.source)
        ]
        t, d, ef = outputs
        wanted.append(torch.stack([ef[:, 1], t[:, 1], d[:, 1], t[:, 0], ef[:, 0]], dim=1))
    torch.testing.assert_close(Ensemble(question, softmax=False)(x), wanted[0])
    torch.testing.assert_close(Ensemble(question, softmax=True)(x), wanted[1])


def test_a_diverging_rival_says_what_to_lower() -> None:
    question = problem()
    broken = copy.deepcopy(question.correction.images)
    broken[:] = torch.nan
    bad = CloningProblem(question.network, question.data, Samples(broken, question.correction.labels))
    with pytest.raises(UserError, match="lower the learning rate"):
        joint(bad, QUICK, seed=0)
    for wrong in ({"num_steps": 0}, {"learning_rate": 0.0}, {"strength": -1.0}, {"temperature": 0.0}):
        with pytest.raises(UserError, match=f"rival.{next(iter(wrong))}="):
            RivalSettings(**wrong)
