"""Checks of the settings under `dataset`, which reach the data modules as the command line gave them."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.manifest import printable
from zoo.errors import UserError
from zoo.storage.records import neighbours


def require_count(key: str, value: Any, *, at_least: int = 0, at_most: int | None = None) -> None:
    """Refuses what is no whole number, or one out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"dataset.{key}={value}: expected a whole number")
    if value < at_least:
        raise UserError(f"dataset.{key}={value}: expected at least {at_least}")
    if at_most is not None and value > at_most:
        raise UserError(f"dataset.{key}={value}: expected at most {at_most}")


def require_text(key: str, value: Any) -> None:
    """Refuses what is no text."""
    if not isinstance(value, str):
        raise UserError(f"dataset.{key}={value}: expected text")


def require_share(key: str, value: Any, *, whole: bool = False) -> None:
    """Refuses what is no number above 0 and below 1; `whole` lets 1 in, too."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 < value < 1 or (whole and value == 1)):
        raise UserError(f"dataset.{key}={value}: expected a share above 0 and {'at most' if whole else 'below'} 1")


def require_strength(key: str, value: Any, at_most: float) -> None:
    """Refuses what is no number from 0 to the bound."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= at_most:
        raise UserError(f"dataset.{key}={value}: expected a number from 0 to {at_most:g}")


def require_flag(key: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise UserError(f"dataset.{key}={value}: expected true or false")


def require_option(key: str, value: Any, options: Iterable[str | None]) -> None:
    """Refuses what is none of the options, of which None is written `null`."""
    options = list(options)
    if value not in options:
        known = neighbours(str(value), ["null" if option is None else option for option in options])
        raise UserError(f"dataset.{key}={value} is unknown: {known}")


def require_folder(root: Any, wanted: str, *, create: bool = False) -> Path:
    """The folder `dataset.root`; where there is none, it is made or the refusal says what is wanted in it."""
    if not isinstance(root, (str, Path)) or not str(root):
        raise UserError(f"dataset.root={root}: expected the path of a folder with {wanted}")
    shown = printable(str(root))
    try:
        folder = Path(root).expanduser().resolve()
        if create and not folder.exists():
            folder.mkdir(parents=True)
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
        if is_folder:
            next(folder.iterdir(), None)
    except FileNotFoundError as error:
        raise UserError(
            f"dataset.root={shown}: there is no such folder; put {wanted} into it or set dataset.root"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # forbidden, links in a circle, no home of that user, a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"dataset.root={shown} cannot be listed ({reason}); set dataset.root to {wanted}") from error
    if not is_folder:
        raise UserError(f"dataset.root={shown} is a file; expected {wanted}")
    return folder
