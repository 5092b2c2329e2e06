"""Everything that can be known to be wrong before anything is computed, read or written, told by key.

The order of a command is: its words are made readable (``launch.command_line``), Hydra composes them, ``configured``
gives the settings, whose constructors check their values, ``check`` holds them against the machine, the data module,
the file system and the zoo; only then the job opens.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from cloning.settings import TaskSettings
from launch.errors import no_key
from launch.machine import check_machine
from launch.schema import Config, keys
from reassembly.proxies import OF_WHOLE_NETWORKS
from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, plain, shown
from zoo.storage.places import require_directory
from zoo.storage.records import convert, neighbours

if TYPE_CHECKING:
    from zoo.registry import Zoo

log = logging.getLogger(__name__)


def configured(cfg: DictConfig, overrides: Sequence[str], command: str) -> Config:
    """Returns the composed configuration as our dataclasses.

    Args:
        overrides: those of the command line.
        command: ``search`` or ``train``.

    Raises:
        UserError: a value out of its limits, a key appended with ``+`` that does not exist, a key that the method or
            the command does not read, a wrong ``resume``.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except dataclasses.FrozenInstanceError as error:
        field = str(error).split("'")[1]  # "cannot assign to field 'NAME'"
        words = [word.lstrip("+").partition("=")[0] for word in overrides if word.startswith("+")]
        given = next((word for word in words if field in word.split(".")), field)
        raise UserError(no_key(given, keys())) from error
    assert isinstance(config, Config)
    _require_effect(config, overrides, command)
    if config.resume is None:
        return config
    from launch.resume import resumed  # heavy

    return resumed(config, overrides)


def check(config: Config, command: str) -> None:
    """Holds a configuration against the machine, the data module, the file system and the zoo.

    Args:
        command: ``search`` or ``train``; a search that trains nothing can be run where its network cannot be trained.

    Raises:
        UserError: what cannot be, by its key.
    """
    _check_paths(config)
    check_dataset(config.dataset)
    if config.parent.dataset is not None:
        _check_parent(config)
    _check_optimizer(config)
    if command == "train" and config.method.name == "cloning":
        _check_tuning_of_clones(config)
    if command == "train" or (config.method.name == "reassembly" and config.finalists > 1):
        check_machine(config)
    config.executor.require_machine()
    if config.executor.name == "ray" and config.device.startswith("cuda:"):
        raise UserError(
            f"device={config.device} with executor=ray: every task gets a GPU of its own, which Ray chooses; type "
            "device=cuda"
        )
    if config.device != "cpu":
        from zoo.devices import find_device  # with torch

        find_device(config.device)
    _check_zoo(config)


def _check_tuning_of_clones(config: Config) -> None:
    if config.tuning.mode == "full" and not config.correction.exemplars:
        raise UserError(
            f"tuning.mode=full has no effect with correction.exemplars=0 (correction={config.correction.name}), where "
            "nothing is trained: type tuning=freeze, or correction=exemplars correction.exemplars=10"
        )
    for key, limit in config.budget.limits().items():
        if config.tuning.mode == "full":
            raise UserError(
                f"budget.{key}={limit} with tuning.mode=full: copies of whole networks run afterwards, whatever the "
                "parts add; type tuning=freeze or budget=unlimited"
            )


def _require_effect(config: Config, overrides: Sequence[str], command: str) -> None:
    """Refuses overrides that nothing would read."""
    if command == "search":
        for key in ("resume", "blueprint"):
            if getattr(config, key) is not None:
                raise UserError(f"{key}={getattr(config, key)} belongs to train.py: leave it out, or run train.py")
        if config.parent.dataset is not None:
            raise UserError("parent.dataset (experiment=transfer) belongs to train.py: leave it out, or run train.py")
        if config.method.name == "baseline":
            raise UserError(
                "method=baseline has nothing to search for: type `python train.py method=baseline`, which ranks the "
                "whole networks and tunes the best, or leave it out, for they are candidates of every search"
            )
    for key in ("network", "select"):
        if (value := getattr(config.method, key)) is not None and config.blueprint is not None:
            raise UserError(
                f"method.{key}={value} has no effect beside blueprint={shown(config.blueprint, 200)}, which names its "
                "networks itself: leave one of them out"
            )
    if config.proxy.name in OF_WHOLE_NETWORKS and config.method.name == "reassembly" and config.blueprint is None:
        raise UserError(
            f"proxy.name={config.proxy.name} scores by a network's own classifier, which a composition does not have: "
            f"type `python train.py method=baseline method.select={config.proxy.name}`, or proxy=ridge "
            f"proxy.also=[{config.proxy.name}] for its column in the table"
        )
    for override in overrides:
        if re.split(r"[.=@]", override.lstrip("+~"))[0] in config.unread:
            other = "method=reassembly" if config.method.name == "cloning" else "method=cloning"
            raise UserError(
                f"{shown(override)} has no effect with method={config.method.name}: leave it out, or type {other}"
            )
    _tell_unread(config, overrides)


def _check_optimizer(config: Config) -> None:
    """Refuses an optimiser or schedule that cannot be had or cannot take a step."""
    optimizer, trainer = config.optimizer, config.trainer
    if optimizer.fused and optimizer.gradient_clip_norm and trainer.precision == "16-mixed":
        raise UserError(
            "optimizer.fused=true with trainer.precision=16-mixed cannot clip gradients: type optimizer.fused=false or "
            "optimizer.gradient_clip_norm=0"
        )
    if optimizer._target_ is not None or config.schedule._target_ is not None:
        from tuning.optimizers import check_optimizer  # heavy

        check_optimizer(optimizer, config.schedule)
    if config.tuning.warmup != "none" and config.method.name != "reassembly":
        raise UserError(
            f"tuning.warmup={config.tuning.warmup} trains the adapters of a composed network, and method="
            f"{config.method.name} gives none to match features with: type tuning.warmup=none"
        )


_OF_SEARCHES = frozenset(
    {"budget", "composition", "finalists", "insertion", "localisation", "partition", "proxy", "selection", "task"}
)
"""Groups that say what is to be found: a blueprint is found already."""


def _tell_unread(config: Config, overrides: Sequence[str]) -> None:
    """Warns of settings that the chosen one of its group does not read; a sweep over the group may well give them."""
    groups = {"localisation": config.localisation, "insertion": config.insertion, "correction": config.correction}
    for override in overrides:
        group, _, key = override.lstrip("+~").partition("=")[0].partition(".")
        if group in groups and key in groups[group].unread:
            log.warning("%s has no effect with %s=%s", shown(override), group, groups[group].name)
        if config.blueprint is not None and group in _OF_SEARCHES and f"{group}.{key}" != "task.classes":
            given = shown(config.blueprint, 200)
            log.warning("%s has no effect beside blueprint=%s, for which nothing is searched", shown(override), given)


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Refuses arguments that the data module does not take, by the annotations of its constructors."""
    target = _find_target(dataset.get("_target_"))
    arguments = _arguments(target)
    if "seed" not in arguments:
        raise UserError(f"dataset._target_={dataset['_target_']}: a data module takes a seed, which this does not")
    taken = sorted(arguments.keys() - {"seed"})
    for key, value in dataset.items():
        if key == "_target_":
            continue
        if key not in taken:
            reason = (
                "is the job's own seed: type seed=..." if key == "seed" else f"is not taken: {neighbours(key, taken)}"
            )
            raise UserError(f"dataset.{key}={shown(value)} {reason}")
        _check_argument(f"dataset.{key}", value, *arguments[key])
    for key in taken:
        if key not in dataset and arguments[key][1] is inspect.Parameter.empty:
            raise UserError(f"dataset.{key} is not given: type dataset.{key}=...")


def _check_parent(config: Config) -> None:
    """Refuses what the training before the job's own could not be begun with."""
    from launch.parent import parent_config

    try:
        check_dataset(config.parent.dataset)
        parent_config(config)
    except UserError as error:
        raise UserError(f"parent: {error}") from error


def _find_target(name: Any) -> Callable[..., Any]:
    from datamodules import ImageDataModule

    if not isinstance(name, str) or not name:
        raise UserError(f"dataset._target_={shown(name)}: expected the name of a data module; type dataset=digits")
    try:
        target = pkgutil.resolve_name(name)
    except Exception as error:
        raise UserError(
            f"dataset._target_={shown(name)} cannot be imported: {error}; type dataset=digits, or the dotted name of a "
            "subclass of datamodules.ImageDataModule"
        ) from error
    if not callable(target) or (inspect.isclass(target) and not issubclass(target, ImageDataModule)):
        raise UserError(f"dataset._target_={shown(name)} is no subclass of datamodules.ImageDataModule")
    return target


def _arguments(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The arguments of a data module by name, as (annotation, default), with those that it hands on to its bases."""
    if not inspect.isclass(target):
        makers = [target]
    else:
        makers = [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
    found: dict[str, tuple[Any, Any]] = {}
    for maker in makers:
        hints = get_type_hints(maker, include_extras=True)
        parameters = list(inspect.signature(maker).parameters.values())
        for parameter in parameters:
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            is_own = maker is makers[0] or parameter.name not in _GIVEN_TO_BASE
            if is_named and is_own and parameter.name != "self":
                found.setdefault(parameter.name, (hints.get(parameter.name, Any), parameter.default))
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _check_argument(key: str, value: Any, kind: Any, default: Any) -> None:
    try:
        if not all(math.isfinite(number) and abs(number) <= MAX_INTEGER for number in _numbers(value)):
            raise UserError(f"{key}: got {shown(value)}, expected finite numbers of 64 bits")
        convert(kind, value, key)
    except UserError as error:
        typed = default
        if isinstance(value, float) and value.is_integer():
            typed = int(value)  # 1e3
        elif kind is str and isinstance(value, (int, float)):
            typed = f"'\"{plain(value)}\"'"
        advice = "" if typed is inspect.Parameter.empty else f"; type {key}={plain(typed)}"
        raise UserError(f"{error}{advice}") from error


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def _check_paths(config: Config) -> None:
    """Refuses places where files go that are no directories or cannot be made or written, and missing inputs."""
    written = {"output_dir": config.output_dir}
    if config.output_dir is None and config.resume is None:
        written = {"runs_dir": config.runs_dir}
    for key, place in {**written, "cache.root": config.cache.root}.items():
        if place is not None:
            require_directory(key, place, is_read=key == "cache.root")
    if config.blueprint is not None:
        try:
            if not Path(config.blueprint).exists():
                told = f"blueprint={shown(config.blueprint, 200)}"
                raise UserError(
                    f"{told} does not exist: give a blueprint.yaml, or the directory of a bundle or of a run"
                )
            if not os.access(config.blueprint, os.R_OK):
                raise UserError(f"blueprint={shown(config.blueprint, 200)} cannot be read (Permission denied)")
        except OSError as error:
            raise UserError(f"blueprint={shown(config.blueprint)}: {error.strerror}") from error


def _check_zoo(config: Config) -> None:
    """Refuses a zoo that cannot be read, and networks that it lacks."""
    from launch.teacher import check_teacher
    from launch.zoos import configured_zoo

    zoo = configured_zoo(config, keep=False)
    check_teacher(config, zoo)
    named = {"method.network": [config.method.network], "task.target": [config.task.target]}
    for key, names in {**named, "task.sources": config.task.sources}.items():
        for name in names:
            if name is not None and name not in zoo:
                raise UserError(f"{key}={shown(name)}: zoo {zoo.name} has no such network: {neighbours(name, zoo)}")
    if config.method.name == "cloning" and config.blueprint is None:
        _check_task(config.task, zoo)


def _check_task(task: TaskSettings, zoo: Zoo) -> None:
    """Refuses classes that the networks of a zoo cannot serve; what decides between those that can is not known yet."""
    from cloning.selection import NetworkProfile, select

    profiles = [NetworkProfile(name, entry.classes) for name, entry in zoo.items()]
    select(profiles, task.classes, cloned=task.cloned, target=task.target, sources=task.sources)


_GIVEN_TO_BASE = {"name", "source", "splits", "class_names", "split_rule"}
"""What a subclass of ``ImageDataModule`` tells its base itself."""
