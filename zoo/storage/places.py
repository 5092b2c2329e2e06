"""Places where files are to go, looked at before anything is computed; nothing is left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zoo.errors import UserError
from zoo.limits import shown

FIGURE_SUFFIXES = (".json", ".md", ".png", ".svg")
"""Of a result with a figure."""


def require_directory(key: str, place: str | Path, *, is_read: bool = False) -> None:
    """Refuses a directory that is none, or that does not exist and cannot be made, or cannot be written.

    Args:
        key: What it is given by (``output_dir``, ``--output``); empty where its place among the words says so.
        place: Its path.
        is_read: One that exists may be read-only, as a cache may: what it holds is used.

    Raises:
        UserError: With the reason.
    """
    if not str(place).strip():
        raise UserError(f"{key} is empty: type {key}=PATH, or leave it out")
    _require_directory(*_told(key, place), Path(place), is_read=is_read)


def require_file(key: str, place: str | Path) -> None:
    """Refuses a file that cannot be written: a directory of that name, or none that it could lie in.

    Args:
        key: See ``require_directory``.
        place: The file, which may exist.

    Raises:
        UserError: With the reason.
    """
    told, advice = _told(key, place)
    try:
        is_directory = Path(place).is_dir()
    except OSError as error:  # a name that is too long
        raise UserError(f"{told} cannot be written ({error.strerror}): {advice}") from error
    if is_directory:
        raise UserError(f"{told} is a directory, not a file to write to: {advice}")
    _require_directory(told, advice, Path(place).absolute().parent)


def require_files(key: str, stem: str | Path, suffixes: Sequence[str] = FIGURE_SUFFIXES) -> None:
    """Refuses a name without suffix if the files cannot be written that get one each.

    Raises:
        UserError: With the reason; also of a name that has one of them, behind which another one would come.
    """
    stem = Path(stem)
    if stem.suffix in suffixes:
        told, _ = _told(key, stem)
        raise UserError(f"{told}: {', '.join(suffixes)} come behind the name: type {key}={stem.with_suffix('')}")
    require_file(key, stem)
    for suffix in suffixes:
        require_file(key, with_end(stem, suffix))


def with_end(stem: Path, suffix: str) -> Path:
    """The file of a name without suffix, which keeps its dots: ``v1.2.json``."""
    return stem.parent / f"{stem.name}{suffix}"


def _told(key: str, place: str | Path) -> tuple[str, str]:
    """The place as messages name it, and what to type."""
    name = shown(str(place), 200)
    return (f"{key}={name}", f"type {key}= another path") if key else (name, "give another path")


def _require_directory(told: str, advice: str, place: Path, *, is_read: bool = False) -> None:
    try:
        path = place.absolute()
        nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        if not nearest.is_dir():
            kind = "is a file" if nearest.exists() else "is a link that leads nowhere"
            raise UserError(f"{told}: {nearest} {kind}, not a directory; {advice}")
        if nearest == path and is_read:
            return
        for name in path.relative_to(nearest).parts:  # which may be too long for the file system
            with suppress(FileNotFoundError):
                (nearest / name).lstat()
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"{told} cannot be made or written ({error.strerror or error}): {advice}") from error
