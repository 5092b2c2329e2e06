"""The one exception for mistakes of the user."""


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, which override to type.

    Entry points print the message alone and exit with status 2; a traceback appears only with ``HYDRA_FULL_ERROR=1``.
    """
