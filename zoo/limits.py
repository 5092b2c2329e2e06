"""The values a setting may have, declared beside it: ``keep: Annotated[float, above(0, 1)] = 0.7``.

One declaration serves every place where a value comes in: ``check`` in the ``__post_init__`` of a settings dataclass,
``zoo.storage.records`` for files, and the configuration's look at the arguments of a data module.
"""

from __future__ import annotations

import dataclasses
import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from zoo.errors import UserError

MAX_COUNT = 2**31 - 1
"""The most of anything that is counted one by one."""
MAX_INTEGER = 2**63 - 1
"""What an int64 holds: bytes, parameters, MACs."""


@dataclasses.dataclass(frozen=True)
class Within:
    """A range of finite numbers, in which NaN and infinities are not; an open end does not belong to it."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above_low = value > self.low if self.low_open else value >= self.low
        return above_low and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        low, high = (f"{end:g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))
        return f"{'above' if self.low_open else 'at least'} {low}, {'below' if self.high_open else 'at most'} {high}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A few values, by name."""

    options: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return any(value == option and type(value) is type(option) for option in self.options)

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


def at_least(low: float, high: float = MAX_COUNT) -> Within:
    """The range [low, high]."""
    return Within(low, high)


def above(low: float, high: float) -> Within:
    """The range (low, high]."""
    return Within(low, high, low_open=True)


def from_below(low: float, high: float) -> Within:
    """The range [low, high)."""
    return Within(low, high, high_open=True)


def one_of(*options: Any) -> OneOf:
    """One of these values."""
    return OneOf(options)


SEED = at_least(0, 2**32 - 1)
"""Seeds that every generator takes: NumPy's legacy one has 32 bits."""


def check(settings: Any, key: str = "") -> None:
    """Refuses a field of a settings dataclass that is not within the limits declared in its annotation.

    Args:
        settings: The dataclass, from its ``__post_init__``.
        key: What stands before the fields' names in an override: ``tuning.head``.

    Raises:
        UserError: The value, what is allowed, and what to type.
        TypeError: A numeric field that declares no limits, so that no new one is without a check.
    """
    for field in dataclasses.fields(settings):
        kinds, limits = declared(type(settings), field.name)
        value, name = getattr(settings, field.name), f"{key}.{field.name}" if key else field.name
        if not limits and kinds & {int, float}:
            raise TypeError(f"{type(settings).__name__}.{field.name} is a number without limits: see zoo.limits")
        if value is None and type(None) in kinds:
            continue
        for limit in limits:
            require(name, value, limit, is_whole=float not in kinds, default=field.default)


def require(
    name: str, value: Any, limit: Within | OneOf, *, is_whole: bool = False, default: Any = dataclasses.MISSING
) -> None:
    """Refuses a value that is not within a limit.

    Args:
        name: The key, as it is typed.
        is_whole: A number has to be an integer.
        default: A value that is allowed, for the message.

    Raises:
        UserError: See ``check``.
    """
    advice = f"; type {name}={plain(default)}" if default is not dataclasses.MISSING else ""
    if isinstance(limit, OneOf):
        if value not in limit:
            raise UserError(f"{name}={shown(value)} is unknown; allowed are {limit}{advice}")
        return
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        kind = "a whole number" if is_whole else "a number"
        raise UserError(f"{name}={shown(value)} is not {kind}; allowed: {limit}{advice}")
    if value not in limit:
        raise UserError(f"{name}={shown(value)} is out of range; allowed: {limit}{advice}")


@cache
def declared(owner: Any, name: str) -> tuple[frozenset[type], tuple[Within | OneOf, ...]]:
    """The plain types that an annotated field of a class may have, and its limits."""
    kind = get_type_hints(owner, include_extras=True)[name]
    limits: tuple[Within | OneOf, ...] = ()
    kinds, open_kinds = set(), [kind]
    while open_kinds:
        kind = open_kinds.pop()
        if get_origin(kind) is Annotated:
            limits += tuple(extra for extra in kind.__metadata__ if isinstance(extra, (Within, OneOf)))
            open_kinds.append(get_args(kind)[0])
        elif get_origin(kind) in (Union, types.UnionType):
            open_kinds += get_args(kind)
        else:
            kinds.add(kind)
    return frozenset(kinds), limits


def plain(value: Any) -> str:
    """A value as it is typed in an override."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def shown(value: Any, length: int = 60) -> str:
    """A value as a message shows it: its ends alone where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * length:
        return f"{'-' * (value < 0)}an integer of {value.bit_length()} bits"
    text = plain(value)
    return text if len(text) <= length else f"{text[: length - 23]}...{text[-20:]}"
