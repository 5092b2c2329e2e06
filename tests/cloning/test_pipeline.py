from __future__ import annotations

import gc
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import small_data, small_zoo

from cloning.blueprint import describe
from cloning.clone import Clone
from cloning.composite import combine
from cloning.fitting import fit_adapter, network_features, solve_network_head
from cloning.frozen import FrozenNetworks
from cloning.gates import num_gates
from cloning.head import balanced_cross_entropy, calibrate, class_weights, solve_head
from cloning.insertion import search_position
from cloning.localise import tries
from cloning.measures import added_costs
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch
from cloning.report import write_report
from cloning.result import CloningSearchResult
from cloning.samples import Samples
from cloning.settings import (
    WHOLE,
    CloningSettings,
    CorrectionSettings,
    InsertionSettings,
    LocalisationSettings,
    TaskSettings,
)
from cloning.statistics import owner_sums
from cloning.tuning import tune_cloned
from datamodules.correction import CorrectionData
from tuning.settings import TuningSettings
from zoo.blueprint import read_blueprint
from zoo.digests import digest
from zoo.errors import UserError
from zoo.registry import Zoo
from zoo.storage.files import write_safetensors
from zoo.storage.store import Store
from zoo.weights import Weights

ZOO = small_zoo()
NETWORKS = FrozenNetworks(ZOO)
QUICK = LocalisationSettings(keep=0.6, num_steps=2, batch_size=4, num_neighbours=4, num_images=6)


def search(root: Path, *, classes: str = "abcde", exemplars: int = 3, **changes: object) -> CloningSearch:
    settings = {
        "task": TaskSettings(tuple(classes)),
        "localisation": QUICK,
        "insertion": InsertionSettings(num_epochs=1),
        "correction": CorrectionSettings(fraction=0.5, exemplars=exemplars),
        **changes,
    }
    data = small_data("abcdefg" if "f" in classes else "abcde")
    job = CloningSearch(ZOO, data, CloningSettings(**settings), store=Store(root / "cache"), seed=0)
    job.networks = NETWORKS  # loaded once for all tests
    return job


def test_with_statistics_no_image_of_the_target_is_seen_and_its_classes_are_known(tmp_path: Path) -> None:
    strict = CorrectionSettings("statistics", fraction=0.5, exemplars=0)
    fixed, whole = InsertionSettings("fixed", position=2, num_epochs=1), LocalisationSettings("none")
    job = search(tmp_path, correction=strict, insertion=fixed, localisation=whole)
    network = job.build(job.run().blueprint)
    data = job.correction(describe(network))
    assert {data.class_names[label] for label in data.labels("train").tolist()} == {"d", "e"}
    assert job.statistics(network).owners == ("high", "low")
    before = digest(network)
    tuned, _ = tune_cloned(network, data, TuningSettings(num_epochs=1), run_dir=tmp_path / "run")
    assert digest(tuned) == before
    closed = search(tmp_path, exemplars=0, insertion=fixed).build(describe(network))
    solved, start = (job.accuracies(found).original for found in (tuned, closed))
    assert solved > max(start, 0.8)


def test_owners_sum_over_distorted_copies_too(tmp_path: Path) -> None:
    options = {"insertion": InsertionSettings("fixed", 0), "localisation": LocalisationSettings("none")}
    job = search(tmp_path, correction=CorrectionSettings("statistics", 0.5, exemplars=0, num_copies=2), **options)
    blueprint = job.run().blueprint
    network, spec = job.build(blueprint), job.networks(blueprint.target).input
    given = CorrectionData(job.data, classes=network.classes, cloned=("d", "e"), fraction=0.5, exemplars=0)
    parts = [given.images("train", spec), *(given.images("train", spec, augmented_epoch=epoch) for epoch in range(2))]
    expected = owner_sums(network, [Samples(*map(torch.cat, zip(*parts, strict=True)))], "high", projection=64)
    found = next(sums for sums in job.statistics(network).sums if sums.owner == "high")
    assert found.counts.sum() == 3 * given.num_images("train")
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.by_class, expected.by_class, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.second, expected.second, rtol=1e-5, atol=1e-5)


def test_a_network_in_use_stays_the_same_and_others_are_freed() -> None:
    networks = FrozenNetworks(ZOO, max_params=0)
    target, source = networks("low"), weakref.ref(networks("high"))
    networks("rare")
    gc.collect()
    assert source() is None
    assert networks("low") is target
    assert networks("high").digest() == NETWORKS("high").digest()


def test_from_a_zoo_to_a_tuned_network_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    loose = {"tolerance": 1000, "accuracy_tolerance": 1, "inner_tolerance": 1000}
    job = search(tmp_path, insertion=InsertionSettings("tolerance", num_epochs=1, **loose))
    found = job.run()
    assert (found.selection.target, found.selection.kept) == ("low", tuple("abc"))
    assert [(s.network, s.classes) for s in found.selection.sources] == [("high", ("d", "e"))]
    depths = [row.position for row in found.positions]
    assert depths == [*range(len(job.networks("low").chain) - 1, -1, -1)]
    (chosen,) = found.blueprint.clones
    assert chosen.position == depths[0]

    network = job.build(found.blueprint)
    assert network.classes == tuple("abcde")
    before = digest(network)
    tuned, result = tune_cloned(
        network,
        job.correction(found.blueprint),
        TuningSettings(num_epochs=1, guard=False),
        run_dir=tmp_path / "run",
    )
    assert tuned is network
    assert (result.choice, result.loss) == ("tuned", "cross_entropy")
    learnt, data = digest(tuned), job.correction(found.blueprint)
    caplog.clear()
    _, again = tune_cloned(tuned, data, TuningSettings(num_epochs=0), run_dir=tmp_path / "again", learnt=True)
    assert "F_c goes on as it was learnt, whatever correction.num_copies says" in caplog.text
    assert digest(tuned) == learnt
    assert again.val_losses["start"] == pytest.approx(result.val_losses["tuned"], rel=1e-5)
    assert result.num_trained_parameters == sum(p.numel() for p in network.parameters())
    assert digest(network) != before
    assert job.accuracies(tuned).classes.keys() == set("abcde")

    files = write_report(found, network, job.localities(network), tmp_path / "report")
    assert all(path.stat().st_size > 0 for path in files.all)
    assert read_blueprint(files.blueprint, type(found.blueprint)) == found.blueprint
    assert {n.name: n.digest() for n in network.networks()} == found.digests


def test_a_second_search_repeats_nothing_and_a_setting_redoes_what_depends_on_it(tmp_path: Path) -> None:
    first = search(tmp_path).run()
    again = search(tmp_path)
    second = again.run()
    assert not again.store.misses
    assert second.blueprint == first.blueprint
    assert second.positions == first.positions
    fixed = search(tmp_path, insertion=InsertionSettings("fixed", 2))
    assert fixed.run().blueprint.clones[0].position == 2
    assert set(fixed.store.misses) == {"insertion"}


def test_networks_of_other_names_are_found_by_these(tmp_path: Path) -> None:
    def job(*names: str) -> CloningSearch:
        entries = []
        for name, entry in zip(names, ZOO.values(), strict=True):
            path = tmp_path / f"{entry.name}.safetensors"
            if not path.exists():
                write_safetensors(path, dict(NETWORKS(entry.name).chain.network.state_dict()), {})
            entries.append(replace(entry, name=name, weights=Weights(file=str(path))))
        made = search(tmp_path)
        made.zoo, made.networks = Zoo("renamed", entries), FrozenNetworks(Zoo("renamed", entries))
        return made

    before, job = job("low", "high", "rare").run(), job("base", "low", "rare")
    found = job.run()
    assert {"localisation", "insertion"} <= set(found.reused)
    assert (found.selection.target, found.chosen[0].source) == ("base", "low")
    assert [row.source for row in found.positions] == ["low"] * len(before.positions)
    assert found.blueprint.networks == {
        {"low": "base", "high": "low"}[name]: digest for name, digest in before.blueprint.networks.items()
    }


def test_without_adapters_the_solved_head_is_the_result(tmp_path: Path) -> None:
    job = search(tmp_path, insertion=InsertionSettings("fixed", 0))
    found = job.run()
    network = job.build(found.blueprint)
    before = digest(network)
    _, result = tune_cloned(network, job.correction(found.blueprint), TuningSettings(num_epochs=2), run_dir=tmp_path)
    assert digest(network) != before
    assert (result.choice, result.epochs) == ("start", 0)


def test_the_head_is_solved_on_distorted_copies_too_and_on_what_whole_sources_say(tmp_path: Path) -> None:
    job = search(tmp_path, insertion=InsertionSettings("fixed", 0))
    found, start = job.run(), {}
    network = job.build(found.blueprint)
    data, spec = job.correction(found.blueprint), network.target.input
    plain, labels = data.images("train", spec)
    (clone,) = network.clones
    assert not clone.gates.all()
    whole = Clone(clone.source, clone.classes, torch.ones_like(clone.gates), 0)
    whole = ClonedNetwork(network.target, network.classes, [whole], [None], network.head_cuts)
    for num_copies in (0, 2):
        copies = [data.images("train", spec, augmented_epoch=epoch)[0] for epoch in range(num_copies)]
        assert all((copy - plain).abs().max() > 0.1 for copy in copies)
        features, wholes = (
            torch.cat([network_features(given, part) for part in (plain, *copies)]) for given in (network, whole)
        )
        repeated = labels.repeat(1 + num_copies)
        weight, bias = solve_head(wholes, repeated, *whole.initial_head(), least_gradient=1e-4)
        teacher = wholes @ weight.T + bias
        heads = [solve_head(features, repeated, *network.initial_head(), teacher=told) for told in (None, teacher)]
        images, of = data.images("val", spec)
        seen, weights = network_features(network, images), class_weights(of, 5)
        losses = [balanced_cross_entropy(seen @ weight.T + bias, of, weights).item() for weight, bias in heads]
        assert losses[1] < losses[0]
        options = {"run_dir": tmp_path / str(num_copies), "num_copies": num_copies}
        tuned, _ = tune_cloned(deepcopy(network), data, TuningSettings(num_epochs=0), **options)
        torch.testing.assert_close(tuned.head.weight, heads[1][0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(tuned.head.bias, heads[1][1], rtol=1e-3, atol=1e-3)
        start[num_copies] = tuned.head.weight
    assert not torch.allclose(start[0], start[2], atol=1e-3)


def test_clones_of_the_strict_mode_add_up(tmp_path: Path) -> None:
    parts = []
    for classes in ("abcde", "abcf"):
        job = search(tmp_path, classes=classes, exemplars=0)
        parts.append(job.build(job.run().blueprint))
    whole, x = combine(NETWORKS("low"), tuple("abcdef"), parts), torch.randn(6, 1, 32, 32)
    logits, own = whole(x), [part(x) for part in parts]
    torch.testing.assert_close(
        logits[:, :5], own[0], rtol=1e-4, atol=1e-3
    )  # each clone adds its rows, and the target's are as they were
    torch.testing.assert_close(logits[:, [0, 1, 2, 5]], own[1], rtol=1e-4, atol=1e-3)


def test_strict_mode_keeps_the_closed_form_calibrated(tmp_path: Path) -> None:
    job = search(tmp_path, exemplars=0)
    found = job.run()
    network = job.build(found.blueprint)
    val = job.task_data.samples(job.correction(found.blueprint), "val", network.target)
    logits, weights = network(val.images), class_weights(val.labels, 5)
    scale, offset = calibrate(logits, val.labels, network.owners)
    logits = logits * scale + offset  # what is stored is calibrated against the target, whose rows stay as they were
    assert balanced_cross_entropy(logits, val.labels, weights).item() == pytest.approx(found.chosen[0].loss, rel=1e-3)
    start, bias = network.initial_head()
    scales = network.head.weight.detach().norm(dim=1) / start.norm(dim=1)
    torch.testing.assert_close(network.head.weight.detach(), start * scales[:, None])
    offsets = network.head.bias.detach() - bias * scales
    kept, cloned = network.owners == 0, network.owners == 1
    assert torch.equal(network.head.weight[kept], start[kept])
    assert torch.equal(network.head.bias[kept], bias[kept])
    torch.testing.assert_close(scales[cloned], scales[cloned][:1].expand(2))  # a scale and an offset a source
    torch.testing.assert_close(offsets[cloned], offsets[cloned][:1].expand(2))
    uncalibrated = balanced_cross_entropy(restarted(network)(val.images), val.labels, weights)
    assert found.chosen[0].loss < uncalibrated.item()
    before = digest(network)
    data = job.correction(found.blueprint)
    assert set(data.images("train", network.target.input)[1].tolist()) == {3, 4}
    _, result = tune_cloned(network, data, TuningSettings(mode="full", num_epochs=3), run_dir=tmp_path)
    assert digest(network) == before
    assert result.choice == "start"


def restarted(network: ClonedNetwork) -> ClonedNetwork:
    return ClonedNetwork(network.target, network.classes, network.clones, network.adapters)


@pytest.mark.parametrize("position", [0, 2])
def test_full_tuning_leaves_the_zoo_bit_equal(tmp_path: Path, position: int) -> None:
    job = search(tmp_path, insertion=InsertionSettings("fixed", position))
    found = job.run()
    network = job.build(found.blueprint)
    tuned, result = tune_cloned(
        network, job.correction(found.blueprint), TuningSettings(mode="full", num_epochs=1), run_dir=tmp_path
    )
    assert tuned is not network
    assert result.num_trained_parameters > sum(p.numel() for p in network.parameters())
    assert {name: job.networks(name).digest() for name in found.digests} == found.digests
    assert all(p.grad is None for name in found.digests for p in job.networks(name).chain.network.parameters())


def test_two_sources(tmp_path: Path) -> None:
    job = search(tmp_path, classes="abcdef", localisation=LocalisationSettings(name="magnitude"))
    found = job.run()
    assert [clone.network for clone in found.blueprint.clones] == ["high", "rare"]
    added = added_costs(job.build(found.blueprint))  # the head's columns of one for the classes of the other, too
    assert [(costs.num_params, costs.macs) for costs in added] == [
        (chosen.added_params, chosen.added_macs) for chosen in found.chosen
    ]
    assert job.build(found.blueprint).head.out_features == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": "abz"}, r"\[z\]: unknown to every network of the zoo; it knows \[a,b,c,d,e,f,g\]"),
        ({"classes": ""}, r"task.classes=\[\] is empty"),
        ({"task": TaskSettings(tuple("ab"), cloned=tuple("bc"))}, "overlap in b"),
        ({"task": TaskSettings(tuple("abd"), target="low", sources=("low",))}, "cannot give to itself"),
        ({"insertion": InsertionSettings("fixed", 77)}, "insertion.position=77 is outside of 'low'"),
        ({"task": TaskSettings(tuple("abcg"))}, "patterns has no images of class 'g'"),
        ({"without": ("val", "de")}, "the val split has no image of the classes d, e"),
        ({"without": ("test", "abc")}, "the test split has no image of the classes a, b, c"),
    ],
)
def test_bad_tasks_are_one_line_before_anything_is_computed(tmp_path: Path, changes: dict, message: str) -> None:
    split, missing = changes.get("without", ("val", ""))
    job = search(tmp_path, **{key: value for key, value in changes.items() if key != "without"})
    indices = job.data._splits[split]
    labels = [job.data.class_names.index(name) for name in missing]
    job.data._splits[split] = indices[~torch.isin(job.data.labels(split), torch.tensor(labels, dtype=torch.int64))]
    with pytest.raises(UserError, match=message) as error:
        job.run()
    assert "\n" not in str(error.value)
    assert not {"localisation", "insertion"} & set(job.store.misses)


def test_all_networks_that_cannot_be_used_are_told_together(tmp_path: Path) -> None:
    broken = {name: replace(ZOO[name], kwargs={**ZOO[name].kwargs, "famly": name}) for name in ("low", "high")}
    job = search(tmp_path, task=TaskSettings(tuple("abcde"), target="low", sources=("high",)))
    job.zoo = small_zoo(**broken)
    job.networks = FrozenNetworks(job.zoo)
    with pytest.raises(UserError, match=r"^2 networks cannot be used: low.*famly.*; high.*famly"):
        job.run()


def test_a_class_without_validation_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = search(tmp_path, exemplars=0)
    job.data._splits["val"] = job.data._splits["val"][job.data.labels("val") != 3]
    job.run()
    assert "the validation split has no image of the classes d:" in caplog.text


def test_a_loss_that_is_not_finite_is_no_position() -> None:
    target, source = NETWORKS("low"), NETWORKS("high")
    at = Clone(source, ("d",), torch.ones(num_gates(source.sites)), 0)
    train, settings = Samples(torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])), InsertionSettings("fixed", 0)
    val = Samples(train.images.clone().fill_(torch.nan), train.labels)
    with pytest.raises(UserError, match="insertion of 'high' at 0: the validation loss is nan"):
        search_position(target, {WHOLE: at}, "abc", train, val, settings, seed=0)


def test_several_sources_are_chosen_by_what_they_make_together(tmp_path: Path) -> None:
    task, fixed = TaskSettings(tuple("abcdef"), target="low"), InsertionSettings("tolerance", tolerance=1)
    options = {"task": task, "insertion": fixed, "localisation": replace(QUICK, keep=None)}
    job = search(tmp_path, classes="abcdef", **options)
    found = job.run()
    assert [source.network for source in found.selection.sources] == ["high", "rare"]
    assert len(found.together) > 3
    best = min(found.together, key=lambda one: (one.loss, one.added_macs))
    assert found.chosen == best.rows
    for one in (best, max(found.together, key=lambda one: one.loss)):
        sources = [(job.networks(s.network), s.classes) for s in found.selection.sources]
        modules = [job._localise(found.selection, s) for s in found.selection.sources]
        clones = [replace(of[row.share], position=row.position) for of, row in zip(modules, one.rows, strict=True)]
        assert [(clone.source, clone.classes) for clone in clones] == sources
        fits = [fit_adapter(job.networks("low"), c, train_images(job, found), kernel_size=1, seed=0) for c in clones]
        adapters, cuts = [fit.adapter if fit else None for fit in fits], found.blueprint.head_cuts
        assert cuts
        network = ClonedNetwork(job.networks("low"), tuple("abcdef"), clones, adapters, cuts)
        data = job.correction(describe(network))
        solve_network_head(network, [job.task_data.samples(data, "train", network.target)])
        accuracies = job.accuracies(network, "val")
        assert accuracies.mean == pytest.approx(one.accuracy)
        assert one.added_macs == sum(costs.macs for costs in added_costs(network))
    again = search(tmp_path, classes="abcdef", **options)
    repeated = again.run()
    assert repeated.together == found.together
    assert repeated.reached == best == found.reached
    assert not again.store.misses


def train_images(job: CloningSearch, found: CloningSearchResult) -> torch.Tensor:
    return job.task_data.samples(job.correction(found.blueprint), "train", job.networks("low")).images


def test_shares_and_positions_are_searched_together(tmp_path: Path) -> None:
    job = search(tmp_path, exemplars=0, localisation=replace(QUICK, keep=None))
    found = job.run()
    assert found.blueprint.head_cuts == ()  # the head is calibrated, not solved
    at_image = {row.share: row for row in found.positions if row.position == 0}
    assert set(at_image) == {WHOLE, *tries(replace(QUICK, keep=None))}
    assert at_image[WHOLE].sim_cloned == pytest.approx(1)  # the whole source agrees with itself
    costs = [at_image[share].added_macs for share in sorted(at_image, key=lambda share: share.keep)]
    assert costs == sorted(costs)
    (added,) = added_costs(job.build(found.blueprint))
    assert (added.num_params, added.macs) == (found.chosen[0].added_params, found.chosen[0].added_macs)


def test_fitted_adapters_bring_the_masked_source_its_own_features(tmp_path: Path) -> None:
    """With the target as deep as needed the closed form explains part of the source's features, and says how much."""

    job = search(tmp_path)
    target, source = job.networks("low"), job.networks("high")
    images, _ = job.data.images("train", target.input)
    gates = torch.ones(sum(site.num_gates for site in source.sites))
    errors = [fit_adapter(target, Clone(source, ("d",), gates, r), images, kernel_size=1).error for r in (1, 3)]
    assert all(0 < error < 1 for error in errors)
    assert fit_adapter(target, Clone(source, ("d",), gates, 0), images) is None
