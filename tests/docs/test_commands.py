"""The commands of README and docs, each run to its end on few images; what CI has not is said beside the command."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch import cloning_jobs, reassembly_jobs
from launch.checks import check
from tests.conftest import undrawn
from tests.docs.documents import Command, commands
from tests.launch.conftest import checked, composer, perform

__all__ = ["composer"]

FEW = {
    "similarity.num_probe_images": 40,
    "proxy.num_images": 40,
    "proxy.num_draws": 1,
    "proxy.max_scored": 4,
    "finalists": 2,
    "selection.num_epochs": "[1]",
    "tuning.num_epochs": 1,
}
FEW_OF_CLONING = {
    "localisation.num_steps": 2,
    "localisation.num_images": 8,
    "insertion.num_epochs": 1,
    "tuning.num_epochs": 1,
}
ONE_MODULE = {"task.classes": "[0,1,2,3,4,5,6,8]", "localisation.keep": 0.4}
ONE_POSITION = {"insertion": "fixed", "insertion.position": 4}
WITHOUT = ["~zoo.networks.resnext_low", "~zoo.networks.mobilenetv3_rotation", "~zoo.networks.regnety_even"]
SIZES = {"num_train": 60, "num_validation": 40, "num_test": 40}
SIZES_OF_CLONING = {"num_train": 160, "num_validation": 60, "num_test": 60}
ELSEWHERE = {
    "trainer=ddp",
    "trainer=fsdp2",
    "resume",
    "--help",
    "--cfg",
}  # more processes, interrupted runs and help: tests/cli


def runnable() -> list[Command]:
    """The commands of the entry scripts that need nothing that CI has not."""
    found = [command for command in commands() if command.words[0] in ("search.py", "train.py")]
    parts = {command: {*command.words, *(word.partition("=")[0] for word in command.words)} for command in found}
    return [command for command in found if not command.needs and ELSEWHERE.isdisjoint(parts[command])]


@pytest.fixture(scope="module")
def place(composer: None, tmp_path_factory: pytest.TempPathFactory, cache: str) -> Iterator[Path]:
    """A working directory with what the documents speak of: images in folders, and a recipe."""
    folder, before = tmp_path_factory.mktemp("documented"), Path.cwd()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 20, 24, 24, 3), dtype=np.uint8)
    for name, images in zip(("cat", "dog"), pixels, strict=True):
        (folder / "images" / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / "images" / name / f"{index}.png")
    os.chdir(folder)
    with undrawn():
        metrics = perform("search", reassembly_jobs.search, *small("search.py", []), cache, "output_dir=recipe")
        assert metrics["num_candidates"] > 0
        (folder / "recipe" / "blueprint.yaml").rename(folder / "recipe.yaml")
        yield folder
    os.chdir(before)


def small(script: str, words: list[str]) -> list[str]:
    """Overrides that make a command quick, for keys that it does not give itself.

    Of cloning one search is of two sources and over all shares and positions, as it is by default.
    """
    is_cloning = "method=cloning" in words
    is_folder = any(word.startswith("dataset.root=") for word in words)
    sizes = {f"dataset.{key}": n for key, n in (SIZES_OF_CLONING if is_cloning else SIZES).items()}
    few = {**(FEW_OF_CLONING if is_cloning else FEW), **({} if is_folder else sizes)}
    if is_cloning and (script, words) != ("search.py", ["method=cloning"]):
        few |= ONE_MODULE if script == "search.py" else {**ONE_MODULE, **ONE_POSITION}
    given = {word.partition("=")[0] for word in words}
    few_networks = [] if is_cloning else WITHOUT
    return [*words, *few_networks, *(f"{key}={value}" for key, value in few.items() if key not in given)]


def jobs_of(words: list[str]) -> list[list[str]]:
    """The jobs of a sweep, the first two that differ in more than their seed; of any other command the one."""
    if "-m" not in words:
        return [words]
    choices = [
        [f"{key}={value}" for value in values.split(",")[: 1 if key == "seed" else None]]
        for key, _, values in (word.partition("=") for word in words if word != "-m")
    ]
    return [list(choice) for choice in itertools.product(*choices)][:2]


def test_most_commands_are_run() -> None:
    assert len(runnable()) >= 16


@pytest.mark.parametrize("command", runnable(), ids=str)
def test_a_documented_command_runs(command: Command, place: Path, cache: str) -> None:
    name, *words = command.words
    words = [re.sub("PATH", str(place / "images"), word) for word in words]
    for number, job in enumerate(jobs_of(words)):
        overrides = [*small(name, job), cache, f"output_dir={place / str(command)}-{number}"]
        entry = name.removesuffix(".py")
        check(checked(entry, *overrides), entry)
        jobs = cloning_jobs if "method=cloning" in job else reassembly_jobs
        perform(entry, jobs.search if name == "search.py" else jobs.train, *overrides)
        result = json.loads((place / f"{command}-{number}" / "result.json").read_text())
        assert result["status"] == "completed"
