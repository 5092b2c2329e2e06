"""What a job reads, data, zoo and blueprint, and the identity of a run: everything its result depends on, by name.

Two runs of one identity give the same numbers. The versions of packages are no part of it: they stand in the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from cloning.settings import TaskSettings
from datamodules import ImageDataModule
from launch.run_directory import BUNDLE, IDENTITY, describe_loss
from launch.schema import Config
from launch.teacher import teacher_digest
from launch.zoos import configured_zoo
from zoo.blueprint import BLUEPRINT_FILE, WEIGHTS_FILE
from zoo.devices import find_device
from zoo.digests import file_sha256
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.limits import shown
from zoo.registry import Zoo
from zoo.storage.files import read_json
from zoo.storage.records import neighbours
from zoo.storage.sources import module_digest
from zoo.weights import weights_sha256

# Where a job is computed and logged, and how its directory is treated, changes no result.
ELSEWHERE = (
    "device",
    "executor",
    "output_dir",
    "runs_dir",
    "cache",
    "logger",
    "trainer",
    "resume",
    "skip_completed",
    "complete_bundle",
)
_OF_TRAINER = ("precision", "accumulate_batches", "sync_batchnorm", "tf32", "extra")  # but these do
_OF_CONTENT = re.compile(r"(data|teacher|device)|(weights|code) of .*")
_DIGEST = re.compile("[0-9a-f]{64}")
_OF_DEVICE = frozenset({"trainer.precision", "device"})


@dataclass(frozen=True)
class GivenBlueprint:
    """What ``blueprint=...`` leads to: a blueprint file, or the directory of a bundle."""

    path: Path
    is_bundle: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        names = (BLUEPRINT_FILE, WEIGHTS_FILE)
        return tuple(self.path / name for name in names) if self.is_bundle else (self.path,)


@dataclass(frozen=True)
class Inputs:
    """What a job reads, and the identity of its run."""

    data: ImageDataModule
    zoo: Zoo
    blueprint: GivenBlueprint | None
    identity: Mapping[str, str]


def read_inputs(config: Config, command: str) -> Inputs:
    """Reads what a configuration names; networks are not loaded.

    Raises:
        UserError: what is not there, or is not what it is given as.
    """
    data, zoo, blueprint = read_data(config), configured_zoo(config, keep=True), _blueprint(config)
    require_fitting_augmentation(data, zoo)
    if config.method.name == "cloning" and blueprint is None:
        _require_classes(config.task, data)
    identity = {
        "command": command,
        **{key: _told(value) for key, value in _flat(result_settings(config))},
        **{f"trainer.{key}": _told(getattr(config.trainer, key)) for key in _OF_TRAINER},
        **({"trainer.compile": "true"} if config.trainer.compile else {}),
        **({"device": find_device(config.device).type} if config.device != "cpu" else {}),
        "data": data.digest,
        **{f"weights of {name}": digest for name, entry in zoo.items() if (digest := _weights_digest(entry))},
        **{f"code of {name}": digest for name in _modules(config, zoo) if (digest := module_digest(name))},
        **({f"{path}": file_sha256(path) for path in blueprint.files if path.is_file()} if blueprint else {}),
        **({"teacher": digest} if (digest := teacher_digest(config, zoo)) else {}),
    }
    return Inputs(data, zoo, blueprint, identity)


def read_data(config: Config) -> ImageDataModule:
    """The data module that a configuration names; a factory that makes something else is a `UserError`."""
    data = instantiate(config.dataset, seed=config.seed)
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"dataset._target_={config.dataset.get('_target_')} made a {type(data).__name__}, no ImageDataModule"
        )
    return data


def require_fitting_augmentation(data: ImageDataModule, zoo: Zoo) -> None:
    """Refuses an augmentation that makes sense for no network of the zoo, before one is searched for."""
    if data.augmentation is None:
        return
    refusals = []
    for entry in zoo.values():
        try:
            data.augmentation.require_fits(entry.input)
        except UserError as error:
            refusals.append(error)
    if refusals and len(refusals) == len(zoo):
        raise refusals[0]


def _require_classes(task: TaskSettings, data: ImageDataModule) -> None:
    """Refuses a task of cloning with classes that the data has no images of."""
    for key, names in (("classes", task.classes), ("cloned", task.cloned)):
        for name in names:
            if name not in data.class_names:
                told = neighbours(name, data.class_names)
                raise UserError(f"task.{key}: {data.name} has no images of class {shown(name)!r}: {told}")


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that the method reads and that change its result, as plain data."""
    return {key: value for key, value in asdict(config).items() if key not in {*ELSEWHERE, *config.unread}}


def resumed_identity(identity: Mapping[str, str]) -> dict[str, str]:
    """The part of an identity that must not change when a run goes on: it may go on on another device."""
    return {name: value for name, value in identity.items() if name not in _OF_DEVICE}


def other_settings(stored: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Which settings that both identities have differ; data, weights, code and files are none."""
    shared = [name for name in stored if name in present and not _OF_CONTENT.fullmatch(name)]
    shared = [name for name in shared if not _DIGEST.fullmatch(stored[name])]
    return differences({name: stored[name] for name in shared}, {name: present[name] for name in shared})


def differences(stored: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """What two identities differ in, ``name stored -> present`` each, long values shortened; ``data`` is left out."""
    told = []
    for name in dict.fromkeys((*stored, *present)):
        before, after = stored.get(name, "none"), present.get(name, "none")
        if before != after and name != "data":
            told.append(f"{name} {_short(before)} -> {_short(after)}")
    return told


def _blueprint(config: Config) -> GivenBlueprint | None:
    """What is named: a blueprint file, the directory of a bundle, or that of a run, of which its bundle is taken."""
    if config.blueprint is None:
        return None
    path = Path(config.blueprint)
    told = f"blueprint={path}"
    if not path.exists():
        raise UserError(f"{told} does not exist: give a blueprint.yaml, or the directory of a bundle or of a run")
    if not path.is_dir():
        return GivenBlueprint(path, is_bundle=False)
    for directory in (path, path / BUNDLE):
        if (directory / WEIGHTS_FILE).exists():
            return GivenBlueprint(directory, is_bundle=True)
    if (path / "sweep.csv").exists():
        raise UserError(f"{told} is the directory of a sweep: give that of one of its jobs, e.g. blueprint={path}/0")
    recipe = next((p for p in (path / BLUEPRINT_FILE, path / BUNDLE / BLUEPRINT_FILE) if p.is_file()), None)
    composed = f", or type blueprint={recipe} for what was composed, without what was learnt" if recipe else ""
    if lost := describe_loss(path):
        anew = f"train anew (the same command, output_dir={path})"
        raise UserError(f"{told} was completed, but {lost}: put the file back, or {anew}{composed}")
    if _command_of(path) == "train":
        raise UserError(f"{told} is a training that has not come to its end: type resume={path} first{composed}")
    if not (path / BLUEPRINT_FILE).exists():
        raise UserError(f"{told} holds no {BLUEPRINT_FILE}: give a file, or the directory of a bundle or of a run")
    return GivenBlueprint(path / BLUEPRINT_FILE, is_bundle=False)


def _command_of(run_dir: Path) -> str | None:
    """The command whose run a directory holds, as far as that can be told."""
    try:
        identity = read_json(run_dir / IDENTITY)
    except (UserError, OSError):
        return None
    return identity.get("command") if isinstance(identity, dict) else None


def _weights_digest(entry: ZooEntry) -> str | None:
    """Of a file of weights; what a hub's tag names does not change, and a missing file is told where it is loaded."""
    return weights_sha256(entry.weights) if entry.weights is not None else None


def _modules(config: Config, zoo: Zoo) -> list[str]:
    """Of the functions that make networks and data; our own have no digest here."""
    sources = [entry.source.partition(":")[0] for entry in zoo.values() if ":" in entry.source]
    sources += [
        e.weights.convert.partition(":")[0] for e in zoo.values() if e.weights is not None and e.weights.convert
    ]
    return sorted({*sources, str(config.dataset.get("_target_")).rpartition(".")[0]} - {""})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _short(text: str) -> str:
    length = 8 if _DIGEST.fullmatch(text) else 40
    return text if len(text) <= length else f"{text[:length]}..."
