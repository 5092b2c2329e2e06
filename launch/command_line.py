"""The words of a command line, brought to what Hydra can read.

Hydra's overrides have a grammar of their own below the shell's: a space, bracket, comma, ``=``, apostrophe or Chinese
character in a value has to be quoted for it once more. Keys that hold paths take any word of the shell as it is; other
words that cannot be read are refused with the spelling that can.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import NoneType
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from launch.errors import no_option, options
from zoo.errors import UserError
from zoo.limits import shown

PATH_KEYS = (
    "output_dir",
    "runs_dir",
    "cache.root",
    "resume",
    "blueprint",
    "dataset.root",
    "parent.dataset.root",
    "zoo.networks.*.weights.file",
)
"""What follows ``=`` is a path: taken to the letter. In a sweep (``-m``) ``a,b`` are two paths."""

_MAX_DEPTH = 50
_MAX_SPELLING = 300
_MAX_NAME = 200  # of a key or option: a file system takes 255 bytes
_COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Word:
    """An override in its parts: ``prefix`` is ``+``, ``++``, ``~`` or empty."""

    prefix: str
    key: str
    value: str | None

    @classmethod
    def split(cls, text: str) -> _Word:
        match = re.fullmatch(r"(\+{0,2}|~)([^=]*)(?:=(.*))?", text, re.DOTALL)
        assert match is not None
        return cls(*match.groups())

    @property
    def is_path(self) -> bool:
        pattern = "|".join(re.escape(key).replace(r"\*", r"[^.]+") for key in PATH_KEYS)
        return self.prefix != "~" and self.value is not None and re.fullmatch(pattern, self.key) is not None

    def with_value(self, value: str) -> str:
        return f"{self.prefix}{self.key}={value}"


def readable(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line, overrides first, as Hydra can read them.

    Raises:
        UserError: an unknown option, one that contradicts another, a word that is no override, not UTF-8, or cannot be
            read; with the spelling that can.
    """
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            name = word.encode("utf-8", "backslashreplace").decode()
            raise UserError(f"{shown(name)} is not UTF-8: rename the file or folder, or give it by another path")
    chosen = _parser().parse_intermixed_args(list(words))
    given = [name for name in _COMMANDS if getattr(chosen, name) not in (None, False)]
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{names} cannot be given together: leave out all but one")
    if chosen.resolve and not (chosen.cfg or chosen.help):
        raise UserError("--resolve goes with --cfg: type --cfg job --resolve")
    if chosen.experimental_rerun is not None:
        raise UserError("--experimental-rerun is not supported: type resume=RUN_DIR to continue a run of train.py")
    grammar = OverridesParser.create()
    overrides = [_readable(word, grammar, is_sweep=chosen.multirun) for word in chosen.overrides]
    counts = Counter(_Word.split(word).key for word in set(overrides) if not word.startswith("~"))
    for key in (key for key, count in counts.items() if count > 1):
        log.warning("%s is given %d times: the last one counts", shown(key), counts[key])
    rest, left = [], list(chosen.overrides)
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            rest.append(word)
    return [*overrides, *rest]


def _parser() -> argparse.ArgumentParser:
    """Hydra's own parser of options, which refuses by an exception instead of its usage."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}: overrides are key=value or group=option, options are listed by --hydra-help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _readable(text: str, grammar: OverridesParser, *, is_sweep: bool) -> str:
    word = _Word.split(text)
    if not word.key.partition("@")[0].strip():
        raise UserError(f"{shown(text) or chr(39) * 2} has no key: type key=value or group=option")
    if len(word.key) > _MAX_NAME:
        raise UserError(f"there is no key {shown(word.key)}: --help lists the groups and keys")
    if len(word.value or "") > _MAX_NAME:
        _refuse_as_option(word)  # a list of options is never so long
    if word.is_path:
        return _as_path(word, grammar, is_sweep=is_sweep)
    if (override := _parse(text, grammar)) is not None:
        if word.prefix != "~" and isinstance(override._value, (bool, int, float, dict, NoneType)):
            _refuse_as_option(word)
        return text
    if word.value is None:
        raise UserError(f"{shown(text)} has no '=': type key=value or group=option; --help lists groups and keys")
    if _parse(word.with_value("0"), grammar) is None:
        raise UserError(f"{shown(text)}: a key is names with dots between, as in partition.num_blocks=3")
    is_open = any(word.value.count(opening) != word.value.count(closing) for opening, closing in ("()", "[]", "{}"))
    ending = "; a bracket has no partner" if is_open else ""
    spelling = word.with_value(_spelling(word.value.strip(), grammar))
    if len(spelling) <= _MAX_SPELLING and spelling.isprintable() and _parse(spelling, grammar) is not None:
        raise UserError(f"cannot read {shown(text)}: type {shlex.quote(spelling)}{ending}")
    raise UserError(f"cannot read {shown(text)}: text is quoted within the word, as in '{word.key}=\"a (b)\"'{ending}")


def _refuse_as_option(word: _Word) -> None:
    if known := options(word.key.partition("@")[0]):
        raise UserError(no_option(word.key, word.value or "", known))


def _as_path(word: _Word, grammar: OverridesParser, *, is_sweep: bool) -> str:
    """Quotes a path, unless it is written for Hydra already: in quotes, as ``null``, or as a sweep of several."""
    text = word.with_value(word.value or "")
    override = _parse(text, grammar)
    if override is not None:
        value = override._value
        if isinstance(value, QuotedString) or value is None or (is_sweep and override.is_sweep_override()):
            return text
    path = word.value or ""
    if path == "~" or path.startswith("~/"):
        path = os.path.expanduser(path)
    if override is not None and override.value() == path:
        return text
    written = word.with_value(quoted(path))
    return written if _parse(written, grammar) is not None else text


def _spelling(value: str, grammar: OverridesParser) -> str:
    """The value with quotes around those of its parts that cannot be read without."""
    if _parse(f"key={value}", grammar) is not None:
        return value
    if value.startswith("[") and value.endswith("]"):
        return f"[{', '.join(_spelling(item, grammar) for item in _items(value))}]"
    if value.startswith("{") and value.endswith("}"):
        pairs = [item.partition(":") for item in _items(value)]
        return f"{{{', '.join(f'{key.strip()}: {_spelling(item.strip(), grammar)}' for key, _, item in pairs)}}}"
    return quoted(value)


def _items(value: str) -> list[str]:
    """What stands between the outer brackets of a list or mapping, split at its own commas."""
    items, depth = [""], 0
    for character in value[1:-1]:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items]


def _parse(text: str, grammar: OverridesParser) -> Override | None:
    depths = accumulate((character in "[{(") - (character in "]})") for character in text)
    if max(depths, default=0) > _MAX_DEPTH:  # of which the parser would take minutes
        return None
    try:
        return grammar.parse_override(text)
    except Exception:  # noqa: BLE001 the parser lets through what its parts raise: integers of 5,000 digits, recursion
        return None


def quoted(text: str) -> str:
    """The text in double quotes of Hydra's grammar: quotes, and backslashes before one, are escaped."""
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{escaped}"'
