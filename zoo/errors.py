"""The one exception for mistakes of the user, and what an exception of anybody else's code says.

Code of others (a factory, a forward, a reader of files) may raise anything, or call `sys.exit`: where it is called,
`FOREIGN_FAULTS` are caught and become a `UserError` that tells the `reason`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

FOREIGN_FAULTS = (Exception, SystemExit)
_MOST_TOLD = 8


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, which override to type.

    Entry points print the message alone and exit with status 2; a traceback appears only with ``HYDRA_FULL_ERROR=1``.
    A message longer than any line that is read (8,000 characters: a name out of a stranger's file) is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 8000 else message[:8000] + "...")


def require_each(names: Iterable[str], require: Callable[[str], object], problem: str) -> None:
    """Asks for all of them, so that one error tells everything that is refused and not the first alone.

    Args:
        names: What is asked for.
        require: Raises a `UserError` of one.
        problem: What several have in common: `networks cannot be used`.

    Raises:
        UserError: The one that was raised, or how many there are and each of them.
    """
    told = []
    for name in names:
        try:
            require(name)
        except UserError as error:
            told.append(str(error))
    if told:
        more = f"; and {len(told) - _MOST_TOLD} more" if told[_MOST_TOLD:] else ""
        raise UserError(told[0] if len(told) == 1 else f"{len(told)} {problem}: {'; '.join(told[:_MOST_TOLD])}{more}")


def tell(error: UserError | OSError) -> int:
    """Prints the line that ends a command on stderr, and returns its exit status: 2 for bad input, 1 for a failure."""
    is_bad_input = isinstance(error, UserError)
    line = error if is_bad_input else f"{error.filename or 'output'}: {error.strerror or error}"
    print(f"error: {line}", file=sys.stderr)
    return 2 if is_bad_input else 1


def reason(error: BaseException, limit: int = 160) -> str:
    """Type and text of an exception in one line of at most about `limit` characters."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text if len(text) <= limit else text[: limit - 3] + '...'}"
