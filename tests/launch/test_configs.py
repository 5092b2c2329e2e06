"""Every file under conf/ composes and fits the schema, and what it names can be imported and takes its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from launch.schema import Config, register
from zoo.registry import read_zoo

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent not in (CONF, CONF / "zoo"))
ZOOS = sorted(path for path in (CONF / "zoo").glob("*.yaml") if path.stem != "timm_all")  # minutes; see test_patterns
OPTIONS = [f"{path.parent.relative_to(CONF)}={path.stem}" for path in FILES]
BASES = {"experiment=pretraining", "experiment/dery=imagenet"}  # what the experiments of a folder have in common
REQUIRED = {"dataset=image_folder": ["dataset.root=images"]}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str, name: str = "train") -> Config:
    config = OmegaConf.to_object(compose(name, list(overrides)))
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in BASES])
def test_every_option_composes(option: str) -> None:
    group, _, name = option.partition("=")
    folder, _, nested = group.partition("/")
    override = f"{folder}={nested}/{name}" if nested else option
    config = composed(override, *REQUIRED.get(option, []))
    target = get_object(config.dataset["_target_"])
    arguments = {key: value for key, value in config.dataset.items() if key != "_target_"}
    inspect.signature(target).bind_partial(**arguments, seed=0)


@pytest.mark.parametrize("path", ZOOS, ids=lambda path: path.stem)
def test_every_zoo_is_read_with_and_without_hydra(path: Path) -> None:
    plain, through_hydra = read_zoo(path), read_zoo(composed(f"zoo={path.stem}").zoo)
    assert dict(plain) == dict(through_hydra)
    assert plain.name == through_hydra.name == path.stem


def test_both_commands_know_the_same_settings() -> None:
    assert composed(name="search") == composed(name="train")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("seed=0", ("adamw", 0.001)), ("optimizer=sgd", ("sgd", 0.05)), ("optimizer.learning_rate=0.2", ("adamw", 0.2))],
)
def test_what_a_method_brings_of_its_own_gives_way_to_what_is_typed(word: str, expected: tuple[str, float]) -> None:
    for words in (["method=cloning", word], [word, "method=cloning"]):
        optimizer = composed(*words).optimizer
        assert (optimizer.name, optimizer.learning_rate) == expected


def test_the_defaults_of_the_schema_are_those_of_the_files() -> None:
    """A default in two places may drift apart: the files set only what makes an option."""
    config, schema = composed(), Config()
    assert config.similarity == schema.similarity
    assert config.schedule == schema.schedule
    assert config.optimizer == schema.optimizer
    assert config.trainer == schema.trainer
    assert config.adapter == schema.adapter
