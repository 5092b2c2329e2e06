"""Things by name that are imported when they are first asked for: a command loads what it uses and nothing else."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

Value = TypeVar("Value")


class Registry(MutableMapping[str, Value]):
    """A mapping whose values may be places, ``package.module:name``, until they are looked up."""

    def __init__(self, **places: str | Value) -> None:
        self._values: dict[str, str | Value] = dict(places)

    def __getitem__(self, name: str) -> Value:
        value = self._values[name]
        if isinstance(value, str):
            value = self._values[name] = pkgutil.resolve_name(value)
        return value

    def __setitem__(self, name: str, value: Value) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
