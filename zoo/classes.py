"""Class names: of a network and of the data it meets."""

from __future__ import annotations

from collections.abc import Sequence


def class_difference(given: Sequence[str], expected: Sequence[str]) -> str | None:
    """How the class names of the data differ from those a network was made for, in words; None where they do not."""
    given, expected = list(given), list(expected)
    if given == expected:
        return None
    if sorted(given) == sorted(expected):
        first = next(label for label, names in enumerate(zip(given, expected, strict=True)) if names[0] != names[1])
        return f"the same classes in another order: class {first} is {given[first]!r} instead of {expected[first]!r}"
    missing, other = (_some(sorted(set(a) - set(b))) for a, b in ((expected, given), (given, expected)))
    if len(given) == len(expected) and [name.casefold() for name in given] == [name.casefold() for name in expected]:
        return f"classes in other capitals: {other} instead of {missing}"
    told = [f"{len(given)} classes instead of {len(expected)}"] if len(given) != len(expected) else []
    told += [f"missing: {missing}"] if missing else []
    told += [f"not among them: {other}"] if other else []
    return ", ".join(told)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
