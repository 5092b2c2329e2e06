"""What a data module read, image by image: kept beside a run, compared when the run goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from zoo.errors import UserError
from zoo.storage.plain import inflate

FORMAT = "huozi-manifest/1"
MAX_BYTES = 2**30
"""Of a manifest when decompressed: some millions of images."""


class ListedImage(NamedTuple):
    """One image of a manifest.

    Attributes:
        label: Name of its class.
        split: `train`, `val` or `test`.
        size_bytes: Of its file; 0 for an image that lies in memory.
        modified_ns: Its file's time of change, nanoseconds since 1970; 0 in memory.
    """

    label: str
    split: str
    size_bytes: int = 0
    modified_ns: int = 0


@dataclass(frozen=True)
class Manifest:
    """The images of all splits.

    Attributes:
        digest: Of the data module: what the rows do not show (pixels in memory, the order) counts in it, too.
        images: By path below the data's root, or by number for images in memory.
    """

    digest: str
    images: Mapping[str, ListedImage]

    def to_bytes(self) -> bytes:
        """Compressed lines of JSON, the same bytes for the same manifest; a million images take about 20 MB."""
        lines = [json.dumps([FORMAT, self.digest]), *(json.dumps([name, *row]) for name, row in self.images.items())]
        return gzip.compress("\n".join(lines).encode("ascii"), compresslevel=3, mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Reads what `to_bytes` wrote.

        Raises:
            UserError: Anything else; the caller says where it lies.
        """
        try:
            header, *rows = map(json.loads, inflate(content, MAX_BYTES, "the manifest of the data").splitlines())
            format, digest = header
            images = {
                str(name): ListedImage(str(label), str(split), int(s), int(m)) for name, label, split, s, m in rows
            }
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError("the manifest of the data is damaged") from error
        if format != FORMAT or not isinstance(digest, str):
            raise UserError(f"the manifest of the data is of format {str(format)[:40]}, expected {FORMAT}")
        return cls(digest, images)


def difference(before: Manifest, after: Manifest) -> str | None:
    """What changed from one manifest to another, in one line with an example of each kind; None where nothing did."""
    if before.digest == after.digest:
        return None
    old, new = before.images, after.images
    both = [name for name in new if name in old]
    touched = [name for name in both if old[name].modified_ns != new[name].modified_ns]
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "relabelled": [
            f"{name}: {old[name].label} -> {new[name].label}" for name in both if old[name].label != new[name].label
        ],
        "changed in place": [name for name in both if old[name].size_bytes != new[name].size_bytes],
        "changed in place or copied (the time of change differs)": [
            name for name in touched if old[name].size_bytes == new[name].size_bytes
        ],
        "moved between splits": [
            f"{name}: {old[name].split} -> {new[name].split}" for name in both if old[name].split != new[name].split
        ],
    }
    told = [f"{len(names)} {kind} ({printable(names[0])})" for kind, names in kinds.items() if names]
    return f"images {', '.join(told)}" if told else "the same list of images, other pixels, classes, order or cropping"


def printable(name: str) -> str:
    r"""A name as it can be shown and stored anywhere: bytes that are no UTF-8 and control characters become `\x..`."""
    told = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in told)
