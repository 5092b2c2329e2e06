"""Results to use: a run of train.py, a composition of a CNN and a ViT with a class token, a clone, files of images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from deploy.model import Model
from launch import reassembly_jobs
from tests.deploy.deploy_stand_ins import chain, cloned, composed, model_of, save
from tests.launch.conftest import composer, perform

__all__ = ["composer"]


@pytest.fixture(scope="module")
def run_dir(composer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of train.py on few digits, whose test split is as large as ever."""
    before, folder = os.getcwd(), tmp_path_factory.mktemp("runs")
    os.chdir(folder)
    small = ("dataset.num_train=60", "dataset.num_validation=50", "dataset.num_test=203", "dataset.batch_size=32")
    try:
        perform(
            "train",
            reassembly_jobs.train,
            *("method=baseline", "method.network=resnet_digits", "tuning=probe", "output_dir=run", *small),
        )
    finally:
        os.chdir(before)
    assert json.loads((folder / "run/result.json").read_text())["status"] == "completed"
    return folder / "run"


@pytest.fixture(scope="module")
def assembled() -> Model:
    return model_of(composed("resnet_digits", "vit_digits", {n: chain(n) for n in ("resnet_digits", "vit_digits")}))


@pytest.fixture(scope="module")
def bundle(assembled: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ``assembled``: what was learnt, and its interface."""
    return save(assembled.network, tmp_path_factory.mktemp("bundles") / "assembled")


@pytest.fixture(scope="module")
def clone() -> Model:
    return model_of(cloned(3))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``3`` and ``7`` with two grey images each, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for name in ("3/a", "3/b", "7/a", "7/b"):
        pixels = torch.randint(0, 256, (40, 30), dtype=torch.uint8, generator=generator)
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    (folder / "3/notes.txt").write_text("no image")
    return folder
