"""The teacher of ``tuning.teacher=...``: a network of the zoo by its name, or what a run or bundle holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.schema import Config
from zoo.blueprint import BLUEPRINT_FILE, WEIGHTS_FILE
from zoo.digests import file_sha256
from zoo.errors import UserError
from zoo.limits import shown
from zoo.registry import Zoo
from zoo.storage.records import neighbours

if TYPE_CHECKING:
    from tuning.reference import Reference


def check_teacher(config: Config, zoo: Zoo) -> None:
    """Refuses a teacher that is not there, or that nothing would listen to.

    Raises:
        UserError: It is no network of the zoo and no directory; nothing is trained.
    """
    name = config.tuning.teacher
    if name is None:
        return
    if not config.tuning.num_epochs:
        raise UserError(
            f"tuning.teacher={shown(name)} has no effect with tuning.num_epochs=0, where nothing is trained: leave it "
            "out, or type tuning.num_epochs=10"
        )
    if config.method.name == "cloning" and not config.correction.exemplars:
        raise UserError(
            f"tuning.teacher={shown(name)} has no effect with correction.exemplars=0, where nothing is trained: leave "
            "it out, or type correction=exemplars correction.exemplars=10"
        )
    if name not in zoo and not _exists(name):
        raise UserError(
            f"tuning.teacher={shown(name, 200)} is no directory, and zoo {zoo.name} has no such network: "
            f"{neighbours(name, zoo)}"
        )


def open_teacher(
    config: Config, zoo: Zoo, classes: Sequence[str], open_result: Callable[[str], Any]
) -> Reference | None:
    """Loads the teacher, frozen; None where there is none.

    Args:
        classes: Of the data, all of which it must know by name.
        open_result: What opens a run or a bundle by its path, as ``deploy.load`` does.

    Raises:
        UserError: It cannot be loaded, or lacks a class.
    """
    name = config.tuning.teacher
    if name is None:
        return None
    from tuning.reference import Reference  # heavy, as what follows
    from zoo.chain.costs import count
    from zoo.loading import load_network

    if name in zoo:
        entry, network = zoo[name], load_network(zoo[name])
        example = entry.input.example()
        teacher = Reference(name, network, entry.input, count(network, example), tuple(entry.classes))
        teacher.require_outputs(example)
    else:
        model = open_result(name)
        model.require_weights()
        teacher = Reference(name, model.network, model.input, model.costs, model.classes)
    teacher.columns(classes)
    teacher.network.eval().requires_grad_(False)
    return teacher


def teacher_digest(config: Config, zoo: Zoo) -> str | None:
    """Of the files of a teacher that is no network of the zoo: the digests of these are known."""
    name = config.tuning.teacher
    if name is None or name in zoo:
        return None
    paths = [path for path in sorted(Path(name).rglob("*")) if path.name in (BLUEPRINT_FILE, WEIGHTS_FILE)]
    return " ".join(file_sha256(path) for path in paths) or None


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:
        return False
