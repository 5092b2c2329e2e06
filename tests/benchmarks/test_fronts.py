"""The comparison of fronts: its statistics by hand, and a small one as a whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fronts import __main__ as command
from benchmarks.fronts import rows
from benchmarks.fronts.comparison import Place, Point, budgets, fronts, smallest, with_rival
from benchmarks.fronts.contenders import CONTENDERS
from benchmarks.fronts.recipes import Recipe, build, costs, lora_rank, with_head
from benchmarks.fronts.rows import tuned
from benchmarks.fronts.statistics import area_between, area_weights, bootstrap
from benchmarks.fronts.task import Question, Task, open_task
from benchmarks.fronts.truncation import features_behind_nodes
from reassembly.network import assembled_costs
from reassembly.settings import Budget
from tests.small_comparison import FEW, FEW_PICKS, WITHOUT
from zoo.blueprint import BlockSpec
from zoo.errors import UserError
from zoo.storage.places import FIGURE_SUFFIXES

WORDS = [
    *FEW,
    *FEW_PICKS,
    "dataset.num_test=50",
    "composition.required=[resnet_digits,regnety_even]",  # so that controls have something to be random
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def task(cache: Path) -> Task:
    return open_task(Question("embedded", ("dataset=digits", *WORDS), WITHOUT, str(cache)), seed=0)


# ---- statistics


def test_the_mean_is_that_of_splits_whatever_their_sizes() -> None:
    found = bootstrap([np.array([1.0, 1, 0, 0]), np.array([1.0])])
    assert (found.mean, found.num_splits) == (0.75, 2)


def test_without_variance_there_is_no_width() -> None:
    found = bootstrap([np.full(7, 0.25), np.full(3, 0.25)])
    assert (found.low, found.high) == (0.25, 0.25)
    assert found.p == pytest.approx(1 / 2000)


def test_the_width_of_one_split_is_that_of_its_images() -> None:
    values = np.repeat([0.0, 1.0], [60, 140])
    found, error = bootstrap([values], num_draws=20_000), math.sqrt(0.7 * 0.3 / 200)
    assert found.low == pytest.approx(0.7 - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(0.7 + 1.96 * error, abs=0.006)


def test_splits_that_differ_widen_it() -> None:
    """Two constant splits give the means 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4."""
    found = bootstrap([np.zeros(50), np.ones(50)], num_draws=4000)
    assert (found.low, found.high, found.mean) == (0.0, 1.0, 0.5)
    assert found.p == pytest.approx(0.5, abs=0.05)


def test_weights_of_the_area_are_those_of_trapezoids_over_the_logarithm() -> None:
    # log2: 0, 1, 3; trapezoids of widths 1 and 2 over a width of 3
    assert area_weights([100, 200, 800]) == pytest.approx([1 / 6, 1 / 2, 1 / 3])
    assert area_weights([5]) == pytest.approx([1])


def test_the_area_between_two_fronts_by_hand() -> None:
    first = [[np.array([1, 1])], [np.array([1, 1])], [np.array([1, 0])]]
    second = [[np.array([0, 0])], [np.array([1, 0])], [np.array([1, 0])]]
    assert area_between(first, second, [100, 200, 800]).mean == pytest.approx(1 / 6 * 1 + 1 / 2 * 0.5 + 0)


def test_the_rival_is_the_best_on_validation_and_not_on_test() -> None:
    def point(contender: str, val_accuracy: float, hits: list[int]) -> Point:
        return Point(
            Place(0, "full", "params", 9, contender), contender, 1, 1, 1, 1, val_accuracy, np.array(hits, bool)
        )

    points = [point("pick", 0.9, [1, 1]), point("whole", 0.5, [1, 1]), point("truncated", 0.6, [1, 0])]
    (rival,) = [found for found in with_rival(points) if found.place.contender == "rival"]
    assert rival.network == "truncated"
    found = fronts([*points, point("lora", 0.99, [0, 0])], "full", "params")
    assert found["rival"].differences[9].mean == found["truncated"].area.mean == 0.5


# ---- recipes


def test_costs_are_those_of_the_network_that_is_built(task: Task) -> None:
    for recipe in CONTENDERS["random_assembly"](task, Budget(), "freeze"):
        network = build(recipe, task)
        counted = costs(recipe, task)
        assert counted.num_params == sum(parameter.numel() for parameter in network.parameters())
        assert counted == assembled_costs(network.blueprint, task.chains)


def test_identity_adapters_leave_a_network_as_it_is(task: Task) -> None:
    spec = task.settings.adapter.own_spec()
    blocks = BlockSpec("resnet_digits", (0, 4)), BlockSpec("resnet_digits", (4, 6))
    images = task.data.images("train", task.zoo["resnet_digits"].input, 8)[0]
    plain = build(Recipe((BlockSpec("resnet_digits", (0, 6)),)), task)
    adapted = build(Recipe(blocks, (spec,)), task)
    assert torch.allclose(plain.forward_features(images), adapted.forward_features(images), atol=1e-5)


def test_random_blocks_are_random_and_the_others_are_not(task: Task) -> None:
    recipe = CONTENDERS["random_assembly"](task, Budget(), "freeze")[0]
    network, drawn = build(recipe, task), build(replace(recipe, random_blocks=(0,)), task)
    first, last = (dict(net.blocks[0].named_parameters()) for net in (network, drawn))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    first, last = (dict(net.blocks[-1].named_parameters()) for net in (network, drawn))
    assert all(torch.equal(first[name], last[name]) for name in first)
    again = build(replace(recipe, random_blocks=(0,)), task)
    assert all(torch.equal(one, other) for one, other in zip(drawn.parameters(), again.parameters(), strict=True))


def test_lora_begins_as_the_network_and_trains_terms_and_head_alone(task: Task) -> None:
    recipe = Recipe((BlockSpec("regnety_even", (0, len(task.descriptions["regnety_even"]) - 1)),))
    images = task.data.images("train", task.zoo["regnety_even"].input, 8)[0]
    plain = build(recipe, task)
    network = build(replace(recipe, lora_rank=2), task)
    assert torch.allclose(plain(images), network(images), atol=1e-5)
    network.freeze("freeze")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    num_terms = sum(parameter.numel() for name, parameter in network.named_parameters() if "lora_" in name)
    assert lora_rank(plain.blocks, num_terms) == 2
    assert lora_rank(plain.blocks, num_terms - 1) == 1


def test_features_behind_every_node_are_those_of_truncated_networks(task: Task) -> None:
    chain, name = task.chains["regnety_even"], "regnety_even"
    images = task.data.images("train", task.zoo[name].input, 6)[0]
    for stop, features in features_behind_nodes(chain, images).items():
        network = build(Recipe((BlockSpec(name, (0, stop)),)), task)
        assert torch.allclose(network.forward_features(images), features, atol=1e-5)


def test_truncated_networks_and_the_pick_are_taught_by_the_same_whole_network(task: Task) -> None:
    budget = Budget(max_params=200_000)
    taught = {name: CONTENDERS[name](task, budget, "full") for name in ("distillation", "taught_pick")}
    for name, of in (("distillation", "truncated"), ("taught_pick", "pick")):
        assert [replace(recipe, teacher=None) for recipe in taught[name]] == CONTENDERS[of](task, budget, "full")
    (teacher,) = {recipe.teacher for recipes in taught.values() for recipe in recipes}
    accuracies = {
        name: tuned(task, Recipe((BlockSpec(name, (0, len(task.descriptions[name]) - 1)),)), "full").val_accuracy
        for name in task.zoo
    }
    assert accuracies[teacher] == max(accuracies.values())
    assert not any(CONTENDERS[name](task, budget, "freeze") for name in taught)


# ---- as a whole


def test_budgets_reach_from_below_the_smallest_network_to_above_the_largest(task: Task) -> None:
    networks = [entry.candidate.num_params for entry in task.catalogue.candidates if entry.candidate.kind == "network"]
    limits = budgets(task, "params", 6)
    assert len(limits) == 6
    assert limits[0] < min(networks)
    assert limits[-1] > max(networks)


def test_all_contenders_are_compared_and_the_same_command_tunes_nothing_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["embedded", "digits", *WORDS, "--without", *WITHOUT, "--units", "params", "--limits", "330000"]
    words += ["--modes", "freeze", "--splits", "1", "--tuned", "1", "--cache", str(cache)]
    command.main([*words, "--output", str(tmp_path / "first")])
    found = json.loads((tmp_path / "first.json").read_text())
    names = {point["contender"] for point in found["points"]}
    assert names == set(CONTENDERS) - {"distillation", "taught_pick"}  # which are for Full-Tuning
    for point in found["points"]:
        assert point["num_params"] <= 330_000
        assert round(50 * point["test_accuracy"]) == pytest.approx(50 * point["test_accuracy"])
    trained = {point["contender"]: point["num_trained"] for point in found["points"]}
    assert trained["lora"] >= trained["whole"]
    table = (tmp_path / "first.md").read_text()
    assert "pick minus it" in table
    assert (tmp_path / "first.png").exists()

    monkeypatch.setattr(rows, "tune", lambda *_, **__: pytest.fail("tuned again"))
    command.main([*words, "--output", str(tmp_path / "v1.2")])
    assert {path.name for path in tmp_path.glob("v1*")} == {f"v1.2{end}" for end in FIGURE_SUFFIXES}
    assert json.loads((tmp_path / "v1.2.json").read_text())["points"] == found["points"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limits", "5", "--modes", "freeze"], "nothing fits 5 params; the smallest network there is, "),
        (
            ["--limits", "330000", "--modes", "probe", "full", "--contenders", "distillation", "--tuned", "1"],
            "--contenders distillation: none has a network in mode probe that fits 330,000 params: name others",
        ),
    ],
)
def test_without_a_network_in_a_mode_earlier_files_stay_as_they_are(
    words: list[str], told: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.json").write_text("earlier")
    words = ["embedded", "digits", *WORDS, "--without", *WITHOUT, "--units", "params", "--splits", "1", *words]
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--cache", str(cache), "--output", str(tmp_path / "there")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert line.startswith(f"error: {told}")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there.json", "earlier")]


def test_the_smallest_network_is_no_larger_than_any_that_is_built(task: Task) -> None:
    name, size = smallest(task, "params")
    recipe = Recipe((BlockSpec(name.partition("[")[0], (0, 1)),))
    assert size == costs(recipe, task).num_params == sum(map(torch.numel, build(recipe, task).parameters()))
    assert size < min(budgets(task, "params", 6))


def test_a_zoo_of_which_all_is_left_out_is_refused() -> None:
    with pytest.raises(UserError, match="zoo embedded has no other: name fewer"):
        open_task(Question("embedded", ("dataset=digits",), (*WITHOUT, "resnet_digits", "regnety_even")), seed=0)


@pytest.mark.parametrize(
    "word", ["budget=200k", "seed=1", "method=baseline", "output_dir=x", "parent.dataset=digits", "tuning=full"]
)
def test_an_override_that_does_nothing_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["embedded", "digits", word])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {word} has no effect here: ")


def test_a_network_that_the_zoo_lacks_is_told() -> None:
    with pytest.raises(UserError, match="--without resnet: zoo embedded has no such network"):
        open_task(Question("embedded", ("dataset=digits",), ("resnet",)), seed=0)


@pytest.mark.parametrize("limit", [200_000, 1_000_000])
def test_the_head_reads_all_cuts_where_that_fits_the_budget(task: Task, limit: int) -> None:
    recipe = Recipe((BlockSpec("resnet_digits", (0, 7)),))
    found = with_head(recipe, task, Budget(max_params=costs(recipe, task).num_params + (limit > 500_000) * limit))
    assert str(found) == str(recipe)
    assert found.head_inputs == ("auto" if limit > 500_000 else "last")
    wide = replace(found, head_inputs="all_cuts")
    network = build(wide, task)
    assert costs(wide, task).num_params == sum(parameter.numel() for parameter in network.parameters())
