"""What comes before a job's own training: composed and tuned on another data set, once for all that ask for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from safetensors.torch import save_file

import deploy
from launch import parent
from launch.checks import check
from launch.job import open_job
from launch.parent import check_data_of_all_jobs, parent_config, with_parent
from launch.schema import Config
from tests.launch.conftest import checked
from zoo.errors import UserError

TRANSFER = ("experiment=transfer", "dataset.num_train=60", "parent.dataset.num_train=80")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parent._DONE, "")


class Training:
    """A training that writes a bundle's files, or stops after its first checkpoint."""

    def __init__(self, *, stops: bool = False) -> None:
        self.configs: list[Config] = []
        self.stops = stops

    def __call__(self, config: Config) -> Mapping[str, Any]:
        with open_job(config, "train", deploy.load) as job:
            if job.completed:
                return job.completed
            self.configs.append(config)
            for name in ("checkpoints/last.ckpt", *([] if self.stops else ["bundle/weights.safetensors"])):
                (job.run_dir / name).parent.mkdir(exist_ok=True)
                save_file({"x": torch.zeros(9)}, job.run_dir / name)
            if self.stops:
                raise RuntimeError("power")
            return job.finish({"value": 0.5}, files=[], bundle_digest="x")


def test_the_parent_is_the_job_on_its_own_data_with_what_differs_there(folder: Path) -> None:
    words = ("parent.tuning.num_epochs=3", "+parent.optimizer={learning_rate: 0.5}", "+parent.tuning.head.refit=never")
    config = checked("train", *TRANSFER, "tuning.label_smoothing=0.1", "seed=4", *words)
    first = parent_config(config)
    assert (first.dataset["name"], first.dataset["num_train"], config.dataset["name"]) == ("mnist5k", 80, "digits")
    assert (first.tuning.num_epochs, first.tuning.label_smoothing, first.tuning.head.refit) == (3, 0.1, "never")
    assert (first.optimizer.learning_rate, config.optimizer.learning_rate) == (0.5, Config().optimizer.learning_rate)
    assert (first.seed, first.budget, first.parent.dataset) == (4, config.budget, None)


def test_the_parent_is_trained_once_goes_on_where_it_was_stopped_and_is_what_the_job_begins_with(folder: Path) -> None:
    config, stopped, whole = checked("train", *TRANSFER), Training(stops=True), Training()
    with pytest.raises(RuntimeError):
        with_parent(config, stopped)
    first = with_parent(config, whole).blueprint
    assert [bool(given.resume) for given in whole.configs] == [True]
    other = with_parent(checked("train", *TRANSFER, "dataset=cluttered_mnist"), whole)
    assert (other.blueprint, other.dataset["name"], len(whole.configs)) == (first, "cluttered_mnist", 1)
    assert Path(first, "bundle/weights.safetensors").exists()
    assert with_parent(checked("train", *TRANSFER, "seed=1"), whole).blueprint != first
    assert with_parent(checked("train", "dataset=digits"), whole).blueprint is None


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_parent_whose_weights_are_gone_is_trained_anew(
    folder: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, training = checked("train", *TRANSFER), Training()
    weights = Path(with_parent(config, training).blueprint, "bundle/weights.safetensors")
    whole = weights.read_bytes()
    os.environ[parent._DONE] = ""
    weights.unlink() if harm == "removed" else weights.write_bytes(whole[:20])
    with_parent(config, training)
    assert len(training.configs) == 2
    assert weights.read_bytes() == whole
    assert "was completed, but" in caplog.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("parent.dataset.num_train=0",), "num_train"),
        (("+parent.dataset.nosuch=1",), "parent: dataset.nosuch=1 is not taken"),
        (("+parent.tuning.nosuch=1",), "parent: unknown field 'tuning.nosuch'"),
        (("parent.tuning.num_epochs=-1",), "parent: tuning.num_epochs: got -1"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(words: tuple[str, ...], told: str, folder: Path) -> None:
    training = Training()

    def run() -> None:
        config = checked("train", *TRANSFER, *words)
        check(config, "train")
        with_parent(config, training)

    with pytest.raises((UserError, InstantiationException), match=told):
        run()
    assert training.configs == []


def test_weights_that_are_missing_are_told_once_before_the_first_job_of_a_sweep(folder: Path) -> None:
    lacking = "zoo.networks.resnet_digits.weights.file=nowhere.safetensors"
    jobs = [["experiment=transfer", f"dataset={data}", lacking] for data in ("digits", "cluttered_mnist")]
    with pytest.raises(UserError, match=r"resnet_digits: weights file .*nowhere\.safetensors does not exist"):
        check_data_of_all_jobs("train", jobs)
    check_data_of_all_jobs("train", [[*jobs[0], "++zoo.leave_out=missing"]])
    assert list(folder.iterdir()) == []
