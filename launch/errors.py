"""Errors told in one line: what was given, what is allowed, what to type."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from zoo.errors import UserError
from zoo.limits import shown

CONF = Path(__file__).resolve().parents[1] / "conf"


def report(error: BaseException, keys: Iterable[str]) -> int:
    """Prints the one line of ``error`` on stderr and returns the exit status: 2 for bad input, 1 for any other failure.

    Args:
        keys: the dotted keys of the configuration, to name the neighbours of one that does not exist.
    """
    print(f"error: {explain(error, keys)}", file=sys.stderr)
    return 2 if is_bad_input(error) else 1


def is_bad_input(error: BaseException) -> bool:
    """Whether the user can mend it: ours, under Hydra's wrappers too, or one of Hydra's own."""
    return isinstance(_root(error), (UserError, HydraException, OmegaConfBaseException, MarkedYAMLError))


def explain(error: BaseException, keys: Iterable[str]) -> str:
    """Returns the one line of ``error``."""
    root = _root(error)
    if isinstance(root, UserError):
        return _shorten(_join(str(root)))
    if isinstance(root, (HydraException, OmegaConfBaseException)):
        return _shorten(_join(_explain_composition(root, list(keys))))
    if isinstance(root, MarkedYAMLError) and (mark := root.problem_mark):
        return _shorten(_join(f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {root.problem}"))
    told = f"{type(root).__name__}: {root}"
    if isinstance(root, OSError) and isinstance(root.filename, (str, bytes)) and root.strerror:
        told = f"{os.fsdecode(root.filename)}: {root.strerror}"
    return f"{_shorten(_join(told))} (HYDRA_FULL_ERROR=1 shows where)"


def _explain_composition(error: BaseException, keys: list[str]) -> str:
    message = str(error)
    if option := re.search(r"Could not find '((?:hydra/)?[^'/]+)/([^']*)'", message):
        group, given = option.groups()
        if not (known := options(group)):
            return f"{group}={shown(given)} is not installed: leave it out"
        return no_option(group, given, known)
    if unknown := re.search(r"Could not override '([^']+)'", message):
        return no_key(unknown.group(1), keys)
    if several := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", message):
        key, given = several.groups()
        return (
            f"{key}={shown(given)} are several values: type -m for a job of each, or {key}=[{shown(given)}] for a list"
        )
    if swept := re.search(r"Sweep parameters '(.*)' requires --multirun", message):
        return f"{shown(swept.group(1))} is for a sweep: type -m, too"
    if "does not support sweep type : INTERVAL_SWEEP" in message:
        return "interval(...) is for hydra/sweeper=optuna: type that, or give values, as in a,b,c or range(1,4)"
    if isinstance(error, MissingMandatoryValue) and (missing := re.search(r"full_key: (\S+)", message)):
        return f"{missing.group(1)} is not given: type {missing.group(1)}=..."
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if "does not support deletion" in str(cause) and (removed := re.search(r"~([\w.@/]+)", message)):
        key = removed.group(1)
        return f"~{key}: {key} cannot be taken away: leave that out for its default, or type {key}=..."
    if wrong := re.search(r"Error merging override ([^=]+)=(.*)", message):
        key, given = wrong.groups()
        kind = re.search(r"could not be converted to (\w+)", str(cause))
        allowed = f"allowed is {_KINDS.get(kind.group(1), kind.group(1))}" if kind else _first_line(cause)
        typed = _whole(given) if kind and kind.group(1) == "Integer" else "..."
        if "is not a ListConfig" in allowed:
            allowed, typed = "allowed is a list", f"[{shown(given)}]"
        if "NoneType is not a subclass of str" in allowed:
            allowed = "allowed is text, which null is in quotes alone"
            typed = re.sub(r"\bnull\b", '"null"', shown(given))
        if "is not Optional" in allowed:
            allowed = "it cannot be null"
        if "is not a valid bool" in allowed:
            allowed = "allowed is true or false"
        if re.search(r"Cannot assign \w+ to Dict", allowed):
            group = key.removeprefix("parent.")
            if group in ("dataset", "tuning"):  # which experiment=transfer chooses
                return f"{key}={shown(given)}: no setting; type experiment=transfer {group}@{key}={shown(given)}"
            allowed = "allowed are settings by name"
        if "type hint 'Union[int, str]'" in allowed:
            allowed = "allowed is a whole number or text"
        return f"{key}={shown(given)}: {allowed}; type {key}={typed} or leave it out for its default"
    if place := re.search(r"full_key: (\S+)", message):
        return f"{place.group(1)}: {_first_line(error)}"
    reason = f": {_first_line(cause)}" if cause is not error else ""
    return _join(message.partition("\nConfig search path")[0]) + reason


_MAX_LINE = 2000
_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}


def options(group: str) -> list[str]:
    """Returns the names of the options of a group; none of what is no group."""
    folder = CONF / group
    is_name = re.fullmatch(r"\w+(/\w+)*", group) is not None
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")) if is_name else []


def no_option(group: str, given: str, known: Sequence[str]) -> str:
    """The line on an option that a group does not have; a file is told where Hydra looks for it."""
    line = f"{group}={shown(given)} is not an option: type {group}= one of {', '.join(known)}"
    if not given.endswith((".yaml", ".yml")):
        return line
    name = Path(given).stem
    return (
        f"{line}; a file of your own is an option by its name: put it at conf/{group}/{name}.yaml, "
        f"or at DIR/{group}/{name}.yaml and type --config-dir DIR {group}={name}"
    )


def _whole(given: str) -> str:
    """What to type for a number like ``1e3`` where an integer belongs."""
    with contextlib.suppress(ValueError, OverflowError):
        if float(given).is_integer() and abs(float(given)) < 2**63:
            return str(int(float(given)))
    return "..."


def no_key(given: str, keys: list[str]) -> str:
    """The line on a key that does not exist, with its neighbours among ``keys``."""
    given = shown(given)
    return f"there is no key '{given}': {_neighbours(given, keys)}"


def _neighbours(given: str, keys: list[str]) -> str:
    if given.startswith(("zoo.", "dataset.")):
        told = f"`--cfg job --package {given.partition('.')[0]}` prints the keys there are"
        return f"{told}; `+{given}=...` adds one" if given.startswith("zoo.networks.") else told
    known = sorted({*keys, *(path.name for path in CONF.iterdir() if path.is_dir() and any(path.glob("**/*.yaml")))})
    last = given.rpartition(".")[2]
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.6)
    close += [key for key in known if difflib.SequenceMatcher(None, key.rpartition(".")[2], last).ratio() > 0.8]
    close.sort(key=lambda key: key != last)
    close = list(dict.fromkeys(close))[:4]
    return f"did you mean {' or '.join(close)}?" if close else "--help lists the groups and keys"


def _root(error: BaseException) -> BaseException:
    """Follows the causes under Hydra's wrapper of a failed ``_target_``: the reason is ours or the component's."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _shorten(line: str) -> str:
    """Shows the ends alone of what nobody reads: a word or a line of thousands of characters."""
    line = re.sub(r"\S{400,}", lambda match: f"{match[0][:100]}...{match[0][-100:]}", line)
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."


def _join(message: str) -> str:
    return re.sub(r"\s+", " ", "; ".join(line.strip() for line in message.splitlines() if line.strip()))
