"""A data set without a job: that of a run, or as train.py's overrides name it, for whoever measures a result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules import ImageDataModule
from launch.checks import check_dataset
from launch.command_line import readable
from launch.errors import CONF, explain
from launch.inputs import read_data
from launch.resume import OUR_DATA
from launch.run_directory import CONFIG
from launch.schema import Config, keys, register
from zoo.errors import UserError
from zoo.storage.files import read_yaml
from zoo.storage.records import short_repr


def open_dataset(words: Sequence[str], run_dir: Path | None) -> ImageDataModule:
    """The data module that overrides name; what they leave open is as the run had it.

    Args:
        words: ``dataset=...``, ``dataset.KEY=...``, ``seed=...``, in the spelling that train.py takes.
        run_dir: Of a run, perhaps a stranger's: its data set is opened only where it is one of this project's.

    Raises:
        UserError: A word that cannot be read, a key that the data set does not have, data that cannot be read, a
            function to call that the run's configuration alone names.
    """
    try:
        return read_data(_checked(*_settings(readable(words), run_dir)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, keys())) from error


def _settings(words: Sequence[str], run_dir: Path | None) -> tuple[dict[str, Any], int]:
    saved = _saved(run_dir / CONFIG) if run_dir is not None else {}
    if run_dir is None or any(re.match(r"dataset=", word) for word in words):
        register()
        is_running = GlobalHydra.instance().is_initialized()
        with nullcontext() if is_running else initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", [f"seed={saved.get('seed', 0)}", *words])
        dataset = OmegaConf.to_container(config.dataset, resolve=True, throw_on_missing=True)
        assert isinstance(dataset, dict)
        return {str(key): value for key, value in dataset.items()}, config.seed
    dataset, seed = dict(saved["dataset"]), saved["seed"]
    function = dataset.get("_target_")
    if function not in OUR_DATA:
        raise UserError(
            f"{run_dir} would have {short_repr(function)} called, which its {CONFIG} names: if you trust it, type the "
            "dataset=... that it was made with"
        )
    for override in OverridesParser.create().parse_overrides(list(words)):
        key = override.get_key_element().lstrip("+")
        if key == "seed":
            seed = override.value()
        elif key == "dataset._target_":
            raise UserError("dataset._target_ is not changed so: type dataset=NAME")
        else:
            dataset[key.partition(".")[2]] = override.value()
    return dataset, seed


def _saved(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    dataset, seed = content.get("dataset"), content.get("seed")
    if not isinstance(dataset, dict) or type(seed) is not int:
        raise UserError(f"{path}: expected the dataset and the seed of a run")
    if any("${" in text for text in _texts(dataset)):
        raise UserError(f"{path}: dataset refers to something else (${{...}}); write out what it stands for")
    return content


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, (dict, list)):
        for item in plain.values() if isinstance(plain, dict) else plain:
            yield from _texts(item)


def _checked(dataset: dict[str, Any], seed: int) -> Config:
    check_dataset(dataset)
    return replace(Config(), dataset=dataset, seed=seed)
