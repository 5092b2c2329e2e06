"""What is given by ``blueprint=...``: its head is for the classes of the run's data, what is learnt of them is kept."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cloning.blueprint import CloningBlueprint
from launch import cloning_jobs, reassembly_jobs
from launch.checks import check
from tests.conftest import undrawn
from tests.launch.conftest import checked, perform
from zoo.blueprint import read_blueprint, read_bundle, text_digest, write_bundle
from zoo.errors import UserError

SMALL = ("method=baseline", "dataset.num_train=60", "dataset.num_validation=50", "dataset.num_test=60")
NETWORK = "method.network=resnet_digits"
START = "tuning.num_epochs=0"
MNIST = ("dataset=mnist5k", "dataset.num_train=100", "dataset.num_validation=60", "dataset.num_test=60")


def train(name: str, *overrides: str, jobs=reassembly_jobs) -> dict:
    perform("train", jobs.train, *SMALL, *overrides, f"output_dir={name}")
    return json.loads(Path(name, "result.json").read_text())


def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(Path(name, "bundle/weights.safetensors"))


@pytest.fixture(scope="module")
def place(composer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of all commands here."""
    directory, before = tmp_path_factory.mktemp("bundles"), Path.cwd()
    os.chdir(directory)
    with undrawn():
        yield directory
    os.chdir(before)


@pytest.fixture(scope="module")
def tuned(place: Path) -> dict:
    """A whole network, tuned on four classes."""
    words = ("dataset.classes=['0','1','2','3']", "tuning=full", "tuning.num_epochs=1", "tuning.guard=false")
    return train("tuned", NETWORK, *MNIST, *words)


def test_a_bundle_is_the_start_as_it_is_for_the_same_classes_of_the_same_data(tuned: dict) -> None:
    same = train("same", *MNIST, "dataset.classes=['0','1','2','3']", "tuning=full", START, "blueprint=tuned")
    first, second = tensors("tuned"), tensors("same")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert same["metrics"]["test_accuracy"] == tuned["metrics"]["test_accuracy"]
    assert same["val_accuracies"] == {"start": tuned["metrics"]["val_accuracy"]}
    assert (tuned["seen_shares"], same["seen_shares"]) == ({}, {"val": 0.0, "test": 0.0})


def test_rows_of_the_same_classes_of_the_same_images_are_kept_bit_for_bit(
    tuned: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        result = train("wider", *MNIST, "dataset.classes=['4','2','0','5']", START, "blueprint=tuned")
    assert "head for the 4 classes of mnist5k: 2 of 4 rows kept (kept: 2, 0; made anew: 4, 5)" in caplog.text
    old, new = tensors("tuned"), tensors("wider")
    assert torch.equal(new["head.weight"][[1, 2]], old["head.weight"][[2, 0]])
    assert torch.equal(new["head.bias"][[1, 2]], old["head.bias"][[2, 0]])
    assert read_bundle("wider/bundle").blueprint.head.classes == ("4", "2", "0", "5")
    assert result["metrics"]["val_accuracy"] > 0.8  # rows made anew stand at the scale of those kept


def test_on_other_images_the_head_is_solved_anew_whatever_its_classes_are_called(
    tuned: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train("other", START, "blueprint=tuned/bundle")
        train("recipe", START, "blueprint=tuned/bundle/blueprint.yaml")
    assert "0 of 10 rows kept (made anew, on other images: 0, 1, 2, 3; made anew: 4, 5, 6, 7, 8, 9)" in caplog.text
    assert "head: new, for the 10 classes of digits" in caplog.text
    assert tensors("other")["head.weight"].shape == tensors("recipe")["head.weight"].shape == (10, 80)
    assert read_blueprint("recipe/bundle/blueprint.yaml").head.classes == tuple("0123456789")


def test_every_bundle_says_by_which_steps_it_came_about(tuned: dict) -> None:
    result = train("second", "tuning=full", "tuning.num_epochs=1", "seed=1", "blueprint=tuned")
    steps = yaml.safe_load(Path("second/bundle/blueprint.yaml").read_text())["provenance"]
    assert [(step["step"], step["data"], step["seed"]) for step in steps] == [
        ("composed", "mnist5k", 0),
        ("tuned", "mnist5k", 0),
        ("tuned", "digits", 1),
    ]
    assert steps == result["provenance"]
    assert steps[:2] == tuned["provenance"]
    assert steps[2]["data_digest"] == result["digests"]["data"]
    assert steps[2]["parent"] == tuned["bundle_digest"] == read_bundle("tuned/bundle").digest
    assert (steps[2]["mode"], steps[2]["num_epochs"]) == ("full", 1)
    assert [seen.name for seen in read_bundle("second/bundle").seen] == ["mnist5k", "digits"]


def test_images_that_were_trained_on_under_another_seed_are_told(tuned: dict, caplog: pytest.LogCaptureFixture) -> None:
    result = train("reseeded", START, "blueprint=second", "dataset.num_test=1000")  # whose seed was 1
    assert result["seen_shares"]["test"] == pytest.approx(60 / 1797, rel=0.35)
    assert "of the test images of digits are images that the network was tuned on before" in caplog.text


def test_a_directory_that_leads_to_no_bundle_is_told(tuned: dict, place: Path) -> None:
    (place / "sweep/0").mkdir(parents=True)
    (place / "sweep/sweep.csv").write_text("job\n")
    (place / "empty").mkdir()
    shutil.copytree("tuned", "stopped", ignore=lambda *_: ["bundle", "result.json"])
    shutil.copytree("tuned", "partial", ignore=lambda *_: ["weights.safetensors"])
    shutil.copytree("tuned", "cut")
    weights = place / "cut/bundle/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for place, told in {
        "sweep": "is the directory of a sweep: give that of one of its jobs",
        "stopped": "has not come to its end: type resume=stopped",
        "partial": r"was completed, but partial/bundle/weights\.safetensors is not there: put the file back",
        "cut": "damaged or truncated",
        "empty": "holds no blueprint.yaml",
        "nowhere": "does not exist: give a blueprint.yaml, or the directory of a bundle or of a run",
    }.items():
        with pytest.raises(UserError, match=told):
            train("other", f"blueprint={place}")
    with pytest.raises(UserError, match="network=resnet_digits has no effect beside blueprint=tuned"):
        check(checked("train", "method=baseline", NETWORK, "blueprint=tuned"), "train")


def test_a_bundle_that_does_not_say_what_it_was_tuned_on_gets_a_head_solved_anew(
    tuned: dict, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = replace(read_bundle("tuned/bundle"), seen=())  # as earlier versions wrote them
    write_bundle("old", bundle)
    with caplog.at_level(logging.INFO):
        job = train("anew", *MNIST, "dataset.classes=['0','1','2','3']", START, "blueprint=old")
    assert "0 of 4 rows kept (made anew, on other images: 0, 1, 2, 3)" in caplog.text
    assert job["provenance"][-1]["parent"] == bundle.digest


def test_a_cloned_network_goes_on_on_data_of_its_classes_and_is_refused_on_others(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("method=cloning", "task.classes=['0','1','6']", "dataset.num_train=160", "localisation=none", START)
    train("cloned", *words, "dataset=mnist5k", "insertion=fixed", "insertion.position=0", jobs=cloning_jobs)
    with caplog.at_level(logging.INFO):
        other = train("moved", *words, "dataset=digits", "blueprint=cloned", jobs=cloning_jobs)
    assert "0 of 3 rows kept (made anew, on other images: 0, 1, 6)" in caplog.text
    assert not torch.equal(tensors("moved")["head.weight"], tensors("cloned")["head.weight"])
    assert [(step["step"], step["data"]) for step in other["provenance"]] == [
        ("composed", "mnist5k"),
        ("tuned", "mnist5k"),
        ("tuned", "digits"),
    ]
    recipe = read_blueprint("cloned/blueprint.yaml", CloningBlueprint)
    assert other["provenance"][1]["parent"] == text_digest(recipe)
    with pytest.raises(UserError, match=r"mnist5k has no '6' \(1 of 3 are missing\)"):
        train("none", *words, "dataset=mnist5k", "dataset.classes=['0','1']", "blueprint=cloned", jobs=cloning_jobs)
    for name, asked in {"strict": ("correction.exemplars=0",), "sums": ("correction=statistics",)}.items():
        anew = train(name, *words, "dataset=mnist5k", *asked, "blueprint=cloned", jobs=cloning_jobs)
        train(
            f"{name}_at_once", *words, "dataset=mnist5k", *asked, "blueprint=cloned/blueprint.yaml", jobs=cloning_jobs
        )
        assert tensors(name)["head.weight"].equal(tensors(f"{name}_at_once")["head.weight"])
        assert not tensors(name)["head.weight"].equal(tensors("cloned")["head.weight"])
        assert [step["step"] for step in anew["provenance"]] == ["composed", "tuned"]


def test_another_task_than_that_of_a_cloned_network_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("method=cloning", "task.classes=['0','1','6']", "dataset=mnist5k", "localisation=none", START)
    train("kept", *words, "insertion=fixed", "insertion.position=0", jobs=cloning_jobs)
    monkeypatch.setattr(cloning_jobs, "is_typed", lambda key: key == "task.classes")
    with pytest.raises(
        UserError, match=r"task\.classes of 0, 1, 7: .* of the classes 0, 1, 6: leave task\.classes out"
    ):
        train("other", *words, "task.classes=['0','1','7']", "blueprint=kept", jobs=cloning_jobs)
