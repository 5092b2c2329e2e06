"""Plain data as text: YAML and JSON of ours, read strictly and in bounds, so that a stranger's file costs nothing.

YAML has more in it than a recipe needs, and its readers disagree about part of it. Ours knows mappings, lists, text,
decimal numbers (``1_000_000`` too), true, false and null. Anything else is refused with its line: aliases (1 KB of
which can stand for 10^9 items), anchors, tags, merge keys, dates, octal and base-60 numbers, ``yes`` and ``no``,
infinities, a key given twice. In quotes all of it is text.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

import yaml

from zoo.errors import UserError

MAX_BYTES = 2**21
"""Of a YAML text (2 MiB); a list of 100,000 names fits."""

MAX_JSON_BYTES = 2**26
MAX_DEPTH = 32
"""Of mappings and lists inside each other."""

MAX_DIGITS = 40
"""Of a whole number."""


def parse_yaml(text: str, where: str) -> Any:
    """The plain data of a YAML text.

    Args:
        text: one document.
        where: begins every message, e.g. the path of the file.

    Raises:
        UserError: no YAML, or more than ours has; in one line with the place.
    """
    _check_size(len(text), MAX_BYTES, where)
    try:
        return _Builder(yaml.parse(text, Loader=_EventLoader)).document()
    except _Refusal as refusal:
        raise UserError(f"{where}: {refusal}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: not readable as YAML: {one_line(error)}") from error


def dump_yaml(value: Any) -> str:
    """YAML text in the order given; whatever lies deeper than two levels stays on one line, like a recipe.

    Raises:
        ValueError: NaN or an infinity, which ``parse_yaml`` would not take back.
    """
    return yaml.dump(value, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=120)


def parse_json(text: str | bytes, where: str) -> Any:
    """The plain data of a JSON text; without NaN and infinities, which JSON has not, and without a key given twice.

    Raises:
        UserError: damaged, too large or too deep; in one line.
    """
    _check_size(len(text), MAX_JSON_BYTES, where)
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_twins,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
    except _Refusal as refusal:
        raise UserError(f"{where}: {refusal}") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError too
        raise UserError(f"{where}: not readable as JSON: {one_line(error)}") from error
    except RecursionError:
        raise UserError(f"{where}: not readable as JSON: mappings and lists are too deep inside each other") from None


def inflate(content: bytes, max_bytes: int, where: str) -> bytes:
    """Decompress zlib or gzip data; no more than ``max_bytes`` and a little are ever in memory.

    Raises:
        UserError: damaged, cut short, or larger than ``max_bytes`` when decompressed.
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        found = stream.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise UserError(f"{where}: not readable as compressed data: {one_line(error)}") from error
    if len(found) > max_bytes:
        raise UserError(f"{where}: more than {max_bytes:,} bytes when decompressed, which is the most that is read")
    if not stream.eof or stream.unused_data:
        raise UserError(f"{where}: not readable as compressed data: cut short, or followed by something else")
    return found


def one_line(error: BaseException) -> str:
    """The message of an error in one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


class _Refusal(ValueError):
    """What is wrong and where; told with the name of the file."""


def _check_size(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise UserError(f"{where}: {size:,} bytes, but at most {limit:,} are read")


_EventLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Builder:
    """Plain data out of the events of a YAML parser: nothing is built that was not looked at first."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events

    def document(self) -> Any:
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), depth=0)
        next(self._events)  # the document ends
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise _refusal(following, "a second document begins; give one")
        return value

    def _value(self, event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refusal(event, "anchors and aliases (& and *) are not read; write the content out")
        if event.tag is not None:
            raise _refusal(event, f"tags are not read, leave out {event.tag[:40]!r}")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if depth == MAX_DEPTH:
            raise _refusal(event, f"more than {MAX_DEPTH} mappings and lists inside each other")
        return self._mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self._sequence(depth)

    def _sequence(self, depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if isinstance(key, (dict, list)):
                raise _refusal(event, "a mapping or list as a key")
            if key in found:
                raise _refusal(event, f"key {str(key)[:40]!r} is given twice")
            found[key] = self._value(next(self._events), depth + 1)
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        if event.style in ("'", '"', "|", ">"):
            return event.value
        try:
            return _plain(event.value)
        except ValueError as error:
            raise _refusal(event, str(error)) from error


def _plain(text: str) -> Any:
    """What a scalar without quotes stands for; ``ValueError`` says why it stands for nothing."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if _INTEGER.fullmatch(text):
        return _bounded_int(text)
    if _FLOAT.fullmatch(text):
        return _finite(text)
    if _CONTESTED.fullmatch(text) or any(pattern.match(text) for pattern in _RESOLVERS.get(text[0], ())):
        raise ValueError(
            f"{text[:40]} means different things to different readers: put it in quotes for text, "
            "or write a decimal number, true or false"
        )
    return text


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_CONTESTED = re.compile(r"[-+]?[0-9]+|0o[0-7]+")  # a leading zero; octal as only newer readers know it
_RESOLVERS = {
    first: [pattern for _, pattern in pairs] for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refusal(f"a number of {len(text)} digits, {text[:20]}..., but at most {MAX_DIGITS} are read")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refusal(f"{text[:40]} is larger than any number that can be computed with")
    return number


def _no_number(text: str) -> Any:
    raise _Refusal(f"{text} is no number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refusal(f"key {key[:40]!r} is given twice")
        found[key] = value
    return found


def _refusal(event: yaml.Event, what: str) -> _Refusal:
    mark = event.start_mark
    return _Refusal(f"line {mark.line + 1}, column {mark.column + 1}: {what}")


class _RecipeDumper(yaml.SafeDumper):
    def represent(self, data: Any) -> None:
        node = self.represent_data(data)
        _lay_out(node, depth=0)
        self.serialize(node)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_float(self, data: float) -> yaml.Node:
        if not math.isfinite(data):
            raise ValueError(f"{data} cannot be written: it is no number")
        return super().represent_float(data)

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """What ``parse_yaml`` would take a scalar for, so that text which it would not take as text gets quotes."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return super().resolve(kind, value, implicit)
        try:
            return _TAGS[type(_plain(value))]
        except ValueError:
            return "contested"


_RecipeDumper.add_representer(float, _RecipeDumper.represent_float)
_TAGS = {
    kind: f"tag:yaml.org,2002:{name}"
    for kind, name in ((str, "str"), (int, "int"), (float, "float"), (bool, "bool"), (type(None), "null"))
}


def _lay_out(node: yaml.Node, depth: int) -> None:
    if isinstance(node, yaml.CollectionNode):
        node.flow_style = depth >= 2
        children = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            _lay_out(child, depth + 1)
