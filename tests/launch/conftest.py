"""Commands in the process of the test: composed and checked as the entry scripts do, with a stand-in for the stages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict, read_write

import deploy
from launch.checks import configured
from launch.errors import options
from launch.job import Job, open_job
from launch.schema import Config, register

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def composer() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def _loaded(command: str, groups: tuple[str, ...], with_hydra: bool) -> DictConfig:
    return compose(command, list(groups), return_hydra_config=with_hydra)


def composed(command: str, overrides: Sequence[str], *, with_hydra: bool) -> DictConfig:
    """What Hydra composes; its files are loaded once for every choice of groups, which takes most of the time."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(word.is_sweep_override() or "/" in word.key_or_group or "@" in word.get_key_element() for word in parsed):
        return compose(command, list(overrides), return_hydra_config=with_hydra)
    groups = tuple(text for text, word in zip(overrides, parsed, strict=True) if options(word.key_or_group))
    config = copy.deepcopy(_loaded(command, groups, with_hydra))
    ConfigLoaderImpl._apply_overrides_to_config([word for word in parsed if not options(word.key_or_group)], config)
    if with_hydra:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = list(overrides)
    return config


def checked(command: str, *overrides: str) -> Config:
    """The configuration that a command line gives."""
    config = composed(command, overrides, with_hydra=True)
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
