"""The directory of one job: owned by one process at a time, and whole whatever happens to that process.

A completed run stays as it is until a new one is whole: over a completed run a job writes into ``unfinished/`` below
it, everywhere else into the directory itself, after it has put away what an uncompleted run left. ``result.json`` is
written last, and the new files take their places in this order (``publish``):

1. the old ``result.json`` goes, then whatever else the new run does not have;
2. the new files replace the old ones, ``config.yaml`` first, ``result.json`` last;
3. ``unfinished/`` goes.

Killed before 1, the directory is the old completed run beside one to resume. Killed between, it claims nothing, for it
has no ``result.json``, and ``unfinished/`` holds the new run whole: ``settle``, with which every job begins, goes on
from there (whether the old files have gone is told by ``unfinished/config.yaml``, the first to move). So what claims to
be complete is complete, and nothing that is complete is lost.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.blueprint import WEIGHTS_FILE
from zoo.errors import UserError
from zoo.storage.files import read_json, require_whole_safetensors

log = logging.getLogger(__name__)

CONFIG, RESULT, LOG = "config.yaml", "result.json", "job.log"
IDENTITY, MANIFEST = "identity.json", "data_manifest.jsonl.gz"
UNFINISHED, FINALISTS, CHECKPOINTS, BUNDLE = "unfinished", "finalists", "checkpoints", "bundle"
LOCK, FRONT = ".lock", "front"
FIGURES = (
    "drawing",
    "candidates",
    "partition",
    "similarity",
    "latency",
    "gates",
    "positions",
    "locality",
    "training",
    "confusion",
)
OURS = (
    *(CHECKPOINTS, FINALISTS, BUNDLE, "blueprint.yaml", "candidates.csv", "front.csv", FRONT),
    *("latency.csv", "left_out.csv"),
    *("positions.csv", "metrics.csv", "confusion.csv"),
    *(f"{name}{suffix}" for name in FIGURES for suffix in (".png", ".svg")),
    *(LOG, "wandb_run.json", "report.html", "card", CONFIG, IDENTITY, MANIFEST),
)
"""What runs leave: other files in the same directory are the user's. ``wandb/`` collects its runs itself."""

_ORPHANS_SECONDS = 6.0
"""The workers of a killed job look every five seconds whether their parent lives; its lock lives as long as they do."""


@contextmanager
def owned(directory: Path, key: str) -> Iterator[bool]:
    """Makes the directory if need be and owns it; gives whether it was made. The lock of a dead process does not block.

    Args:
        directory: Of a run, or of a sweep.
        key: The setting that names it, for messages.

    Raises:
        UserError: Another job works in it, or it cannot be made or written.
    """
    is_new = not directory.exists()
    lock = FileLock(directory / LOCK)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_ORPHANS_SECONDS)
    except Timeout as error:
        raise UserError(
            f"{key}={directory} belongs to another job that is running: wait for its end, or type another {key}=..."
        ) from error
    except NotImplementedError:
        log.warning("the file system of %s has no locks: let no other job work in it", directory)
    except OSError as error:
        raise UserError(f"{key}={directory} cannot be written ({error.strerror}): type another {key}=...") from error
    try:
        yield is_new
    finally:
        lock.release()


def read_result(directory: Path) -> Mapping[str, Any] | None:
    """Returns what ``result.json`` says of a completed job; ``None`` for any other, a missing or a damaged one."""
    try:
        result = read_json(directory / RESULT)
    except (UserError, OSError, RecursionError):
        return None
    is_whole = isinstance(result, dict) and result.get("status") == "completed"
    metrics = result.get("metrics") if is_whole else None
    if not isinstance(metrics, dict) or type(metrics.get("value")) not in (int, float):
        return None
    return result


def describe_loss(directory: Path) -> str | None:
    """Says that the weights which a completed run wrote are missing or damaged; ``None`` where it wrote none."""
    result = read_result(directory)
    if result is None or "bundle_digest" not in result:
        return None
    path = directory / BUNDLE / WEIGHTS_FILE
    try:
        require_whole_safetensors(path)
    except UserError as error:
        return str(error) if path.is_file() else f"{path} is not there"
    return None


def new_run(directory: Path) -> Path:
    """Where a job that begins writes: the same for all processes of it."""
    return directory / UNFINISHED if read_result(directory) else directory


def resumable_run(directory: Path) -> Path:
    """Where the last run that was begun in a directory writes."""
    unfinished = directory / UNFINISHED
    return unfinished if (unfinished / CONFIG).is_file() else directory


def settle(directory: Path) -> None:
    """Ends the exchange of a completed run for another, or its beginning, where a kill has cut it short."""
    unfinished = directory / UNFINISHED
    if read_result(unfinished):
        publish(directory)
    elif unfinished.is_dir() and not (unfinished / CONFIG).is_file():
        remove(unfinished)


def publish(directory: Path) -> None:
    """Puts the whole run of ``unfinished/`` in the place of the old one; see above."""
    new = directory / UNFINISHED
    remove(directory / RESULT)
    if (new / CONFIG).exists():
        for name in OURS:
            if not (new / name).exists():
                remove(directory / name)
    names = sorted(os.listdir(new), key=lambda name: (name == RESULT, name != CONFIG))
    for name in names:
        _replace(new / name, directory / name)
    remove(new)


def clear(directory: Path) -> None:
    """Puts away what an uncompleted run left, in this order: it can be resumed as long as it has its configuration."""
    remove(directory / UNFINISHED)
    remove(directory / RESULT)
    for name in OURS:
        remove(directory / name)


def remove(path: Path) -> None:
    """Removes a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    if source.name == "wandb" and target.is_dir():  # the records of earlier runs stay beside that of this one
        for path in source.iterdir():
            _replace(path, target / path.name)
        return
    if source.is_dir() or target.is_dir():
        remove(target)
    os.replace(source, target)


def describe_damage(directory: Path) -> str | None:
    """Says that ``result.json`` is there and not to be read as that of a job; ``None`` where it is fine or missing."""
    path = directory / RESULT
    if not path.exists() or read_result(directory):
        return None
    try:
        status = read_json(path).get("status")
    except (UserError, OSError, RecursionError, AttributeError):
        status = None
    if status in ("failed", "interrupted"):
        return None
    return f"{path} is damaged or not ours, so it counts as no result"
