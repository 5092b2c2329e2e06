"""What is given by ``blueprint=...``: a bundle goes on from what it holds, a recipe is for the data's classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch import reassembly_jobs
from tests.launch.conftest import perform
from zoo.errors import UserError

SMALL = ("method=baseline", "method.network=resnet_digits", "dataset.num_train=60", "dataset.num_validation=50")


def train(folder: Path, name: str, *overrides: str) -> dict:
    perform("train", reassembly_jobs.train, *SMALL, *overrides, f"output_dir={name}")
    return json.loads((folder / name / "result.json").read_text())


def test_a_bundle_is_the_start_as_it_is_and_a_recipe_of_other_classes_is_refused(folder: Path) -> None:
    tuned = train(folder, "tuned", "tuning=full", "tuning.num_epochs=2", "tuning.guard=false")
    same = train(folder, "same", "tuning=full", "tuning.num_epochs=0", "blueprint=tuned/bundle")
    first, second = (load_file(folder / name / "bundle/weights.safetensors") for name in ("tuned", "same"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert same["metrics"]["test_accuracy"] == tuned["metrics"]["test_accuracy"]
    assert same["val_accuracies"] == {"start": tuned["metrics"]["val_accuracy"]}

    recipe = (folder / "tuned/bundle/blueprint.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("'0', '1'", "'1', '0'"))
    with pytest.raises(UserError, match="in another order: output 0 is '1', label 0 of the data is '0'"):
        train(folder, "other", "blueprint=recipe.yaml")
