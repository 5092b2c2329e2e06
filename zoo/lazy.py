"""Things by name that are imported when they are first asked for: a command loads what it uses and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

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


def exports(package: str, places: Mapping[str, Sequence[str]]) -> tuple[list[str], Callable[[str], Any]]:
    """Returns ``__all__`` and ``__getattr__`` (PEP 562) of a package whose public names lie in its modules.

    Args:
        package: Its name.
        places: The names by the module that defines them.
    """
    place_of = {name: place for place, names in places.items() for name in names}

    def get(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(place_of[name]), name)

    return sorted(place_of), get
