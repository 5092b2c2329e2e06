"""The clones of a folder on the shelf, kept as the folder is while files come and go."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloning.framing import Packed
from cloning.serving.batching import Batcher
from cloning.serving.settings import SUFFIX, Limits, require_name
from cloning.shelf import Shelved
from zoo.errors import UserError
from zoo.storage.files import read_bytes, write_bytes
from zoo.storage.plain import one_line

log = logging.getLogger(__name__)

Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Change:
    """What was done with a file: ``added``, ``replaced``, ``removed`` or ``same``."""

    kind: str
    clone: Shelved | None = None


class Catalogue:
    """Clones by name, out of ``NAME.hz`` in a folder.

    A file that is refused takes nothing away: under its name the clone that was there before goes on answering. What
    has been read is read again when the file has changed.

    Args:
        folder: Where the files are; made if it is not there.
        batcher: Whose thread opens them.
        limits: Of sizes and number.

    Attributes:
        clones: On the shelf, by name.
        refused: Why a file is not, by its name.
    """

    def __init__(self, folder: Path, batcher: Batcher, limits: Limits) -> None:
        self.folder, self.batcher, self.limits = folder, batcher, limits
        self.clones: dict[str, Shelved] = {}
        self.refused: dict[str, str] = {}
        self._seen: dict[str, Signature] = {}
        self._changing = asyncio.Lock()

    async def look(self) -> None:
        """Takes over what has changed in the folder since the last look."""
        async with self._changing:
            found = await asyncio.to_thread(_signatures, self.folder)
            for file in sorted(found.keys() - {f for f, seen in self._seen.items() if found.get(f) == seen}):
                self._seen[file] = found[file]
                await self._read(file)
            for file in [file for file in self._seen if file not in found]:
                del self._seen[file]
                self.refused.pop(file, None)
                if self.clones.pop(file.removesuffix(SUFFIX), None) is not None:
                    self._tell("removed", file)

    async def put(self, name: str, content: bytes) -> Change:
        """Puts a packed clone on the shelf and into the folder.

        Raises:
            UserError: A name that is none or a folder's, a file that is refused; nothing has changed then.
            OSError: It cannot be written.
        """
        file = f"{require_name(name)}{SUFFIX}"
        async with self._changing:
            self._require_no_folder(file)
            try:
                clone = await self._open(name, Packed(file, content))
            except UserError:
                self.batcher.metrics.changes["refused"] += 1
                raise
            write = partial(write_bytes, self.folder / file, content, follows_links=False)  # nothing outside of it
            await asyncio.to_thread(write)
            self._seen[file] = _signature(os.stat(self.folder / file))
            return self._set(file, clone)

    async def delete(self, name: str) -> None:
        """Takes a clone off the shelf, and its file out of the folder.

        Raises:
            KeyError: There is none of that name.
            UserError: It is a folder.
            OSError: It cannot be removed.
        """
        async with self._changing:
            file = f"{name}{SUFFIX}"
            if name not in self.clones and file not in self.refused:
                raise KeyError(name)
            self._require_no_folder(file)
            (self.folder / file).unlink(missing_ok=True)
            for known in (self._seen, self.refused):
                known.pop(file, None)
            self.clones.pop(name, None)
            self._tell("removed", file)

    def _require_no_folder(self, file: str) -> None:
        if (self.folder / file).is_dir():
            raise UserError(f"{file} is a directory in the folder of clones: take it away there, or give another name")

    async def _read(self, file: str) -> None:
        """Opens a file of the folder, or keeps why it is refused."""
        try:
            name = require_name(file.removesuffix(SUFFIX))
            content = await asyncio.to_thread(read_bytes, self.folder / file, self.limits.max_clone_bytes)
            self._set(file, await self._open(name, Packed(file, content)))
        except UserError as error:
            self.refused[file] = str(error)
            self._tell("refused", file, str(error))

    async def _open(self, name: str, packed: Packed) -> Shelved:
        if name not in self.clones and len(self.clones) >= self.limits.max_clones:
            raise UserError(f"{packed}: {len(self.clones):,} clones are served, which is the most that is allowed")
        try:
            return await self.batcher.alone(self.batcher.shelf.open, name, packed)
        except UserError:
            raise
        except Exception as error:  # whatever is in a stranger's file: it ends nothing but its own opening
            raise UserError(f"{packed}: cannot be opened: {type(error).__name__}: {one_line(error)}") from error

    def _set(self, file: str, clone: Shelved) -> Change:
        before = self.clones.get(clone.name)
        self.refused.pop(file, None)
        self.clones[clone.name] = clone
        kind = "added" if before is None else "same" if before.sha256 == clone.sha256 else "replaced"
        if kind != "same":
            self._tell(kind, file)
        return Change(kind, clone)

    def _tell(self, kind: str, file: str, reason: str = "") -> None:
        self.batcher.metrics.changes[kind] += 1
        log.info("%s %s", kind, reason or file)


def _signatures(folder: Path) -> dict[str, Signature]:
    """Files by name with what changes when they do; folders and links to nothing, too, which are refused by name."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                try:
                    found[entry.name] = _signature(entry.stat(follow_symlinks=entry.is_file()))
                except OSError:  # it went while we looked
                    continue
    return found


def _signature(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino
