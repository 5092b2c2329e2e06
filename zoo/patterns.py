"""Zoos by pattern: all architectures of timm or torchvision that match, with published or random weights."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from zoo.builders import architectures, build, require_size, tags_of
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, at_least, check
from zoo.progress import progress
from zoo.storage.files import read_json, user_cache, write_json
from zoo.storage.records import from_plain, to_plain
from zoo.storage.sources import library_versions
from zoo.storage.store import content_key

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

ReadEntry = Callable[[str, dict[str, Any]], ZooEntry]
"""From name and fields to an entry, as a zoo file's own entries are read."""


@dataclass(frozen=True)
class Pattern:
    """Which architectures make a zoo.

    Attributes:
        pattern: `timm:GLOB` or `torchvision:GLOB`, one or several.
        exclude: Globs of names that are no part of it.
        tags: Globs of the tags of published weights, the best first: an architecture takes its first tag that matches,
            and is no part of the zoo without one. None takes random weights, drawn from the name.
        min_params: Parameters of a whole network, at least,
        max_params: and at most; `30m` stands for 30,000,000.
        max_networks: So many at most, evenly out of the alphabetical list of all that match.
    """

    pattern: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    tags: tuple[str, ...] | None = None
    min_params: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    max_params: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    max_networks: Annotated[int | None, at_least(1)] = None

    def __post_init__(self) -> None:
        check(self, "zoo.networks")


def is_pattern(networks: Any) -> bool:
    """Whether a zoo's `networks` are given by pattern, not one by one."""
    return isinstance(networks, Mapping) and isinstance(networks.get("pattern"), (str, list, tuple))


def read_pattern(plain: Mapping[str, Any], where: str) -> Pattern:
    """A pattern out of plain data: one glob may stand for a list of them, `30m` for a number.

    Raises:
        UserError: An unknown field, a value of another type or out of range.
    """
    fields = dict(plain)
    for name in ("pattern", "exclude", "tags"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    for name in ("min_params", "max_params"):
        if isinstance(fields.get(name), str):
            fields[name] = _number(fields[name], name)
    return from_plain(Pattern, fields, f"{where}: networks")


def expand(pattern: Pattern, read_entry: ReadEntry, where: str) -> tuple[list[ZooEntry], dict[str, str]]:
    """The networks that match, and those that were left out by name: no preprocessing known, or not to be built.

    Whether they are chains is not looked at: that takes a second each. How many parameters each has is kept in the
    user's cache, by the versions of the libraries.

    Raises:
        UserError: A pattern of another source, and one, or a limit, that nothing matches.
    """
    entries, left_out = [], {}
    for name, fields in _matching(pattern, where).items():
        try:
            entries.append(read_entry(name, fields))
        except UserError as error:
            left_out[name] = str(error)
    sizes = _Sizes()
    kept = []
    with progress("parameters of architectures", len(entries)) as advance:
        for entry in entries:
            size = sizes.of(entry)
            if isinstance(size, str):
                left_out[entry.name] = size
            elif (pattern.min_params or 0) <= size <= (pattern.max_params or MAX_INTEGER):
                kept.append(entry)
            advance()
    sizes.save()
    if not kept:
        limits = " ".join(f"{k}={v:,}" for k in ("min_params", "max_params") if (v := getattr(pattern, k)) is not None)
        reasons = "; ".join(list(left_out.values())[:2])
        raise UserError(
            f"{where}: networks: none of the {len(entries) + len(left_out)} that match {', '.join(pattern.pattern)} "
            f"is left {f'within {limits}' if limits else 'that can be built'}{f' ({reasons})' if reasons else ''}"
        )
    if pattern.max_networks is not None and pattern.max_networks < len(kept):
        kept = [kept[i * len(kept) // pattern.max_networks] for i in range(pattern.max_networks)]
    return kept, left_out


def _matching(pattern: Pattern, where: str) -> dict[str, dict[str, Any]]:
    """Fields of the entries by name; a name of both sources has its source in front."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for text in pattern.pattern:
        source, colon, glob = text.partition(":")
        if not colon or source not in ("timm", "torchvision") or not glob:
            raise UserError(f"{where}: networks.pattern: got {text!r}, expected timm:GLOB or torchvision:GLOB")
        for model in fnmatch.filter(architectures(source), glob):
            if any(fnmatch.fnmatchcase(model, other) for other in pattern.exclude):
                continue
            fields: dict[str, Any] = {"source": source, "model": model}
            if pattern.tags is not None:
                tags = tags_of(source, model)
                tag = next((tag for glob in pattern.tags for tag in fnmatch.filter(tags, glob)), None)
                if tag is None:
                    continue
                fields["weights"] = {"hub": tag}
            found[source, model] = fields
    if not found:
        tagged = "" if pattern.tags is None else f" with weights {', '.join(pattern.tags)}"
        raise UserError(
            f"{where}: networks: no architecture matches {', '.join(pattern.pattern)}{tagged}"
            f"{' beside those of exclude' if pattern.exclude else ''}; timm:* matches all of timm"
        )
    models = [model for _, model in found]
    return {
        model if models.count(model) == 1 else f"{source}_{model}": fields for (source, model), fields in found.items()
    }


class _Sizes:
    """Parameters of architectures, counted without memory for them and kept for the next time."""

    def __init__(self) -> None:
        self._path = user_cache() / "architectures" / f"{content_key(library_versions())[:32]}.json"
        self._changed = False
        try:
            self._known: dict[str, Any] = read_json(self._path) if self._path.exists() else {}
        except UserError:
            self._known = {}  # damaged: counted anew

    def of(self, entry: ZooEntry) -> int | str:
        """Of the whole network, or why it cannot be built for its images."""
        plain = to_plain(entry)
        key = content_key([plain[field] for field in ("source", "model", "kwargs", "input")])
        if type(self._known.get(key)) not in (int, str):
            self._known[key], self._changed = _count(entry), True
        return self._known[key]

    def save(self) -> None:
        """Writes what is new; a cache that cannot be written is done without."""
        if self._changed:
            try:
                write_json(self._path, self._known)
            except OSError:
                return


def _count(entry: ZooEntry) -> int | str:
    try:
        require_size(entry)
        with torch.device("meta"), torch.no_grad():
            return sum(parameter.numel() for parameter in build(entry, published=False).parameters())
    except UserError as error:
        return str(error)


def _number(text: str, name: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)", text.strip().lower().replace("_", "").replace(",", ""))
    if found is None:
        raise UserError(f"zoo.networks.{name}: got {text!r}, expected a number such as 30m or 30000000")
    return round(float(found[1]) * _UNITS[found[2]])
