"""Commands in the process of the test: composed and checked as the entry scripts do, with a stand-in for the stages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import deploy
from launch.checks import configured
from launch.job import Job, open_job
from launch.schema import Config, register

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def composer() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    return compose(command, list(overrides), return_hydra_config=True)


def checked(command: str, *overrides: str) -> Config:
    """The configuration that a command line gives."""
    config = copy.deepcopy(_composed(command, overrides))
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return configured(config, overrides, command)


def perform(command: str, stages: Callable[[Job], Mapping[str, Any]], *overrides: str) -> Mapping[str, Any]:
    """Runs a command with ``stages`` in the place of search or training."""
    with open_job(checked(command, *overrides), command, deploy.load) as job:
        return job.completed or stages(job)


@pytest.fixture
def folder(composer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory for commands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
