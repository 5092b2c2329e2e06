"""What the server allows; plain numbers, so that ``--help`` loads neither torch nor a web framework."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoo.errors import UserError

SUFFIX = ".hz"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""Of a clone: no separator of paths, and no beginning with a dot."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    Attributes:
        batch_size: Images that run at once.
        max_waiting: Requests that wait for an answer; more are told to come later (503).
        max_image_bytes: Of the file of an image.
        max_pixels: Of an image; a file of a few KB can hold billions.
        max_clone_bytes: Of a packed clone.
        max_clones: On the shelf.
        max_held_bytes: Of the bodies of all requests in flight.
        body_seconds: For a body to arrive.
    """

    batch_size: int = 32
    max_waiting: int = 256
    max_image_bytes: int = 16 * MIB
    max_pixels: int = 2**24
    max_clone_bytes: int = 64 * MIB
    max_clones: int = 10_000
    max_held_bytes: int = 512 * MIB
    body_seconds: float = 30.0


def require_name(name: str) -> str:
    """The name of a clone.

    Raises:
        UserError: One that could be more than the name of a file.
    """
    if name.endswith(SUFFIX):
        raise UserError(f"{name[:100]!r} is no name of a clone but of a file: leave {SUFFIX} off")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name[:100]!r} is no name of a clone: expected up to 100 letters, digits, . _ + and -, a letter or "
            "digit first"
        )
    return name
