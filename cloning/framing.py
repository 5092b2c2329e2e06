"""How a file that travels begins: what it is, and a header in one line whose checksum stands before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.storage.files import read_bytes
from zoo.storage.plain import parse_json

MAX_FILE_BYTES = 2**31
MAX_HEADER_BYTES = 2**12

TOLERANCES = {"float32": 1e-3, "float16": 2e-2}
"""How far logits may be from the sender's, as a share of the largest: other hardware and libraries round in another
way, and half precision rounds what was sent."""


@dataclass(frozen=True)
class Packed:
    """The bytes of a file that need not be one yet, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def contents(path: str | Path | Packed) -> Packed:
    """The bytes of a file; refused are what cannot be read and more than ``MAX_FILE_BYTES``."""
    return path if isinstance(path, Packed) else Packed(str(path), read_bytes(path, MAX_FILE_BYTES))


def framed(magic: bytes, header: Mapping[str, Any], payload: bytes) -> bytes:
    """A line with the checksum of the next one, the header as one line of JSON, and what it describes."""
    line = json.dumps(header, separators=(",", ":")).encode()
    return b"%b %b\n%b\n%b" % (magic, hashlib.sha256(line).hexdigest().encode(), line, payload)


def unframed(path: str | Path | Packed, magic: bytes, max_header_bytes: int = MAX_HEADER_BYTES) -> tuple[Any, bytes]:
    """The header (plain data) and the rest of what ``framed`` made.

    Raises:
        UserError: It cannot be read, begins otherwise, or its header is damaged.
    """
    content = contents(path).content
    first, _, rest = content[: 2 * max_header_bytes].partition(b"\n")
    text, end, _ = rest.partition(b"\n")
    if not first.startswith(magic):
        raise UserError(f"{path}: no packed clone: it does not begin with {magic.decode()}")
    if not end or first != magic + b" " + hashlib.sha256(text).hexdigest().encode():
        raise UserError(f"{path}: damaged in its header (cut short, or a bit has flipped): have it sent again")
    return parse_json(text, f"{path}: its header"), content[len(first) + len(text) + 2 :]
