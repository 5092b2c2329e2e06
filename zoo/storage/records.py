"""Strict conversion between frozen dataclasses and plain data (what YAML and JSON hold).

The types of the fields are the schema: ``from_plain`` refuses an unknown or missing field and a value of another type
in one line that says where it stands, what was given and what is allowed; ``to_plain`` leaves out what is ``None`` by
default.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.errors import UserError
from zoo.limits import OneOf, Within

Record = TypeVar("Record")


def to_plain(value: Any) -> Any:
    """Dataclasses to dicts in the order of their fields, tuples to lists; a default of ``None`` is left out."""
    if dataclasses.is_dataclass(value):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        kept = ((field, content) for field, content in fields if content is not None or field.default is not None)
        return {field.name: to_plain(content) for field, content in kept}
    if isinstance(value, Mapping):
        return {key: to_plain(content) for key, content in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(content) for content in value]
    return float(value) if isinstance(value, float) else value  # NumPy's float64 is a float that YAML does not know


def from_plain(kind: type[Record], value: Any, where: str) -> Record:
    """Build the dataclass ``kind`` from plain data, recursively.

    Understands str, int, float, bool, None, ``Any``, ``Literal``, unions, ``tuple[X, ...]``, ``tuple[X, Y]``,
    ``Sequence[X]``, ``Mapping[str, X]`` and dataclasses, and the limits of ``Annotated`` (``zoo.limits``).

    Args:
        kind: the dataclass to build; its own ``__post_init__`` may check further.
        value: what was read.
        where: begins every message, e.g. the path of the file.

    Raises:
        UserError: one line: the place, what was given, what is allowed.
    """
    try:
        return _convert(kind, value, "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def convert(kind: Any, value: Any, place: str) -> Any:
    """Returns plain data as the annotation ``kind`` wants it, strictly; see ``from_plain``.

    Raises:
        UserError: one line that begins with ``place``.
    """
    return _convert(kind, value, place)


def neighbours(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: the nearest known names if any is near, then (most of) all."""
    known = sorted(known)
    near = difflib.get_close_matches(name[:_MAX_NAME], known, n=1)
    listed = ", ".join(known[:_MAX_LISTED]) + (f" and {len(known) - _MAX_LISTED} more" * (len(known) > _MAX_LISTED))
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {listed or 'none'}"


def short_repr(value: Any) -> str:
    """What a message shows of a value: its repr, of which no more than the beginning is ever built."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _convert(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, place)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _refusal(place, value, " or ".join(str(choice) for choice in arguments))
        return value
    if origin is Annotated:
        converted = _convert(arguments[0], value, place)
        for limit in kind.__metadata__:
            if isinstance(limit, (Within, OneOf)) and converted is not None and converted not in limit:
                raise _refusal(place, value, str(limit))
        return converted
    if origin is tuple:
        return _convert_tuple(arguments, value, place)
    if origin in (list, Sequence):
        return list(_convert_tuple((arguments[0], ...), value, place))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _refusal(place, value, "a mapping of names")
        return {_convert(str, key, place): _convert(arguments[1], value[key], _join(place, key)) for key in value}
    if dataclasses.is_dataclass(kind):
        return _convert_record(kind, value, place)
    if kind is float and type(value) is int and -(2**63) <= value < 2**63:
        return float(value)
    if type(value) is not kind:
        is_unquoted = kind is str and isinstance(value, (bool, int, float))
        raise _refusal(place, value, _NAMES.get(kind, str(kind)) + " (put it in quotes)" * is_unquoted)
    if kind is int and not -(2**63) <= value < 2**63:
        raise _refusal(place, value, "a whole number of at most 64 bits")
    return value


def _convert_record(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise _refusal(place, value, "a mapping of fields")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in value:
        if name not in fields:
            raise UserError(f"unknown field {_join(place, name)!r}: {neighbours(_join('', name), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise UserError(f"missing field {_join(place, name)!r}")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{name: _convert(hints[name], value[name], _join(place, name)) for name in value})


def _convert_tuple(arguments: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _refusal(place, value, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise _refusal(place, value, f"a list of {len(arguments)}")
    return tuple(
        _convert(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_union(choices: tuple[Any, ...], value: Any, place: str) -> Any:
    choices = tuple(kind for kind in choices if kind is not types.NoneType or value is None)
    if len(choices) == 1:
        return _convert(choices[0], value, place)
    refusals = []
    for kind in choices:
        try:
            return _convert(kind, value, place)
        except UserError as error:
            if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
                raise  # the message about its field says more than "expected a mapping"
            refusals.append(str(error).rpartition("expected ")[2])
    raise _refusal(place, value, " or ".join(refusals))


def _refusal(place: str, value: Any, expected: str) -> UserError:
    return UserError(f"{place or 'top level'}: got {short_repr(value)}, expected {expected}")


def _join(place: str, name: Any) -> str:
    name = name if isinstance(name, str) else short_repr(name)
    name = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."
    return f"{place}.{name}" if place else name


_MAX_NAME, _MAX_LISTED = 100, 200
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple = 3, 10, 10, 10
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 100
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "nothing"}
