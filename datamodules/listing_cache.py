"""Lists of a million files, kept for the next run: a folder that has not changed is not gone through again."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.storage.files import user_cache, write_bytes
from zoo.storage.plain import inflate

log = logging.getLogger(__name__)

FORMAT = "huozi-listing/1"
MIN_FILES = 20_000
"""Below, listing takes a fraction of a second and nothing is kept."""

_MAX_BYTES = 2**31
_SETTLED_NS = 2_000_000_000  # a folder may change twice within what clocks of file systems tell apart


class ListingCache:
    """What lies below the class folders of one root, by the content of the folders.

    A folder's time of change says whether a file was added, removed or renamed in it; what files themselves hold is
    looked at elsewhere, file by file. The lists lie in ``$XDG_CACHE_HOME/huozi`` (``~/.cache/huozi``); one that cannot
    be read or written is done without.

    Args:
        root: Of the images.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
        self._path = user_cache() / "listings" / f"{name}.json.gz"
        self._changed = False
        self._places: dict[str, Any] = self._read()

    def get(self, place: str) -> dict[str, list[str]] | None:
        """`names`, `files` and `folders` below a folder; None where it is not known or has changed."""
        kept = self._places.get(place)
        try:
            if kept is not None and all(self.stamp(name) == stamp for name, stamp in kept["visited"]):
                return kept
        except OSError:
            pass
        return None

    def put(self, place: str, visited: list[tuple[str, list[int]]], **found: list[str]) -> None:
        """Keeps what was found below a folder.

        Args:
            place: The folder below the root.
            visited: It and all folders below it, each with its `stamp` of before it was listed.
            found: What `get` gives.
        """
        newest = max(stamp[0] for _, stamp in visited)
        if time.time_ns() - newest > _SETTLED_NS:
            self._places[place] = {"visited": [[name, stamp] for name, stamp in visited], **found}
            self._changed = True

    def stamp(self, place: str) -> list[int]:
        """Time of change in nanoseconds and number of a folder."""
        status = os.stat(self._root / place)
        return [status.st_mtime_ns, status.st_ino]

    def save(self) -> None:
        """Writes what is new, where there is so much that it is worth it."""
        if not self._changed or sum(len(kept["names"]) for kept in self._places.values()) < MIN_FILES:
            return
        content = json.dumps({"format": FORMAT, "root": str(self._root.resolve()), "places": self._places})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._path, gzip.compress(content.encode("ascii"), compresslevel=1))
        except (OSError, UserError) as error:
            log.debug("the list of the files of %s is not kept: %s", self._root, error)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(inflate(self._path.read_bytes(), _MAX_BYTES, "the list of files"))
            if content["format"] != FORMAT or content["root"] != str(self._root.resolve()):
                return {}
            places = content["places"]
            lists = [kept[key] for kept in places.values() for key in ("names", "files", "folders")]
            return places if all(isinstance(name, str) for found in lists for name in found) else {}
        except (OSError, UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}
