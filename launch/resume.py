"""Continuing an interrupted run with the configuration it was started with."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import datamodules
from launch import processes
from launch.inputs import result_settings
from launch.run_directory import CONFIG, owned, resumable_run, settle
from launch.schema import Config, structured
from zoo.converters import OURS as OUR_CONVERTERS
from zoo.errors import UserError
from zoo.limits import shown
from zoo.storage.files import read_yaml
from zoo.storage.records import short_repr

# Where a run is computed and logged may change on the way; what it computes may not.
FREE = ("resume", "trainer", "logger", "hydra")

OUR_NETWORKS = tuple(f"zoo.embedded.networks:{name}" for name in ("small_image", "conv_stem_vit"))
OUR_DATA = tuple(f"datamodules.{name}" for name in datamodules.__all__)
"""What a saved configuration may have called without the user's word: no other function, ours neither."""


def resumed(config: Config, overrides: Sequence[str]) -> Config:
    """Returns the saved configuration of the run directory ``config.resume``.

    Args:
        config: what the command line and the user's own configuration make without the run directory.
        overrides: of the command line; beside where the run is computed and logged they may only repeat what the run
            was started with.

    Raises:
        UserError: the directory holds no run, other settings are given beside ``resume``, or the saved configuration
            names functions to call that neither we nor the user's own configuration name.
    """
    run_dir = _run_to_resume(Path(config.resume or ""))
    saved = read_config(run_dir / CONFIG)
    given = [re.split(r"[=.@]", override.lstrip("+~"))[0] for override in overrides]
    bound = [o for o, key in zip(overrides, given, strict=True) if key not in FREE and not _agree(config, saved, key)]
    if bound:
        raise UserError(
            f"resume={config.resume} takes its settings from that run, which has others than {', '.join(bound)}: "
            "leave them out, or start a new run without resume"
        )
    _require_known_functions(saved, config)
    changed = {key: getattr(config, key) for key in ("trainer", "logger") if key in given}
    return dataclasses.replace(saved, resume=config.resume, **changed)


def read_config(path: Path) -> Config:
    """Returns the configuration that a run has saved, which is resolved: ``${...}`` refers to nothing in it.

    Raises:
        UserError: No such file; a reference, which could stand for 10^9 characters or for an environment variable.
    """
    plain = read_yaml(path)
    if (reference := next(filter(_REFERENCE.search, _texts(plain)), None)) is not None:
        raise UserError(f"{path}: {short_repr(reference)} refers to something else; write out what it stands for")
    config = OmegaConf.to_object(OmegaConf.merge(structured(), plain))
    assert isinstance(config, Config)
    return config


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, (dict, list)):
        for item in [*plain, *plain.values()] if isinstance(plain, dict) else plain:
            yield from _texts(item)


_REFERENCE = re.compile(r"\$\{")


def _run_to_resume(directory: Path) -> Path:
    """The directory that the last run in ``directory`` writes to; for a process of its own, others are told of it."""
    if not os.path.isdir(directory):  # of a name that is too long, too
        raise UserError(f"resume={shown(str(directory), 200)} is no directory: give that of a `python train.py` run")
    if processes.is_main():
        with owned(directory, "resume"):
            settle(directory)
    run_dir = resumable_run(directory)
    if not (run_dir / CONFIG).is_file():
        raise UserError(
            f"resume={directory} holds no run to continue: give the directory of a `python train.py` run; one that "
            f"was stopped before it wrote {CONFIG} has computed nothing, so run its command again"
        )
    return run_dir


def _agree(config: Config, saved: Config, key: str) -> bool:
    if key in {field.name for field in dataclasses.fields(Config)}:
        return getattr(config, key) == getattr(saved, key)
    return result_settings(config) == result_settings(saved)  # a group that sets many, such as experiment


def _require_known_functions(saved: Config, own: Config) -> None:
    """Refuses a saved configuration that has functions called which are not ours and which the user does not name.

    A run directory may be a stranger's. Calling what it names would run a stranger's code.
    """
    known = set(_functions(own))
    for key, function in _functions(saved):
        is_data = key == "dataset._target_" and function in OUR_DATA
        is_network = key.startswith("zoo.") and function in (*OUR_NETWORKS, *OUR_CONVERTERS)
        if not (is_data or is_network or (key, function) in known):
            group = key.partition(".")[0]
            raise UserError(
                f"resume={own.resume} would call {key}={function}, which its {CONFIG} names: if you trust it, type "
                f"the {group}=... that the run was started with beside resume"
            )


def _functions(config: Config) -> Iterator[tuple[str, str]]:
    """All functions that a configuration has called, with their keys: sources and converters of networks, targets."""
    networks: Any = config.zoo.get("networks")
    for name, entry in (networks if isinstance(networks, dict) else {}).items():
        if not isinstance(entry, dict):
            continue  # of a pattern, which calls nothing, or refused where the zoo is read
        source = str(entry.get("source"))
        if source not in ("timm", "torchvision"):
            yield f"zoo.networks.{name}.source", source
        weights = entry.get("weights")
        if isinstance(weights, dict) and weights.get("convert") is not None:
            yield f"zoo.networks.{name}.weights.convert", str(weights["convert"])
    yield from _targets(config.dataset, "dataset")


def _targets(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            if name == "_target_":
                yield f"{key}.{name}", str(child)
            else:
                yield from _targets(child, f"{key}.{name}")
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _targets(child, f"{key}[{position}]")
