"""The one exception for mistakes of the user, and what an exception of anybody else's code says.

Code of others (a factory, a forward, a reader of files) may raise anything, or call `sys.exit`: where it is called,
`FOREIGN_FAULTS` are caught and become a `UserError` that tells the `reason`.
"""

from __future__ import annotations

import sys

FOREIGN_FAULTS = (Exception, SystemExit)


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, which override to type.

    Entry points print the message alone and exit with status 2; a traceback appears only with ``HYDRA_FULL_ERROR=1``.
    A message longer than any line that is read (8,000 characters: a name out of a stranger's file) is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 8000 else message[:8000] + "...")


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
