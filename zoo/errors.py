"""The one exception for mistakes of the user."""


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, which override to type.

    Entry points print the message alone and exit with status 2; a traceback appears only with ``HYDRA_FULL_ERROR=1``.
    A message longer than any line that is read (8,000 characters: a name out of a stranger's file) is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 8000 else message[:8000] + "...")
