"""Content-addressed results of the expensive stages: features, similarity, partition, scores.

An entry's name is the sha256 of everything its value depends on: stage, settings, digests of weights and data, the code
that computes it and the versions of the libraries. So a changed setting or an edited file misses and redoes only what
depends on it. An entry is one file, written atomically under a lock; stage and key stand in it, under the checksum that
is verified at each read. It holds tensors (safetensors) and plain JSON values; nothing is ever unpickled.

A search never dies of its cache: where an entry cannot be written (no permission, a full disk) its value is used and
not kept, which is told once. Reading needs no lock, so that a complete cache may be read-only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.storage.files import write_bytes
from zoo.storage.sources import library_versions, own_code_digest

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_MAGIC = "huozi-store/2"
_JSON = "__json__"


@dataclass(frozen=True)
class StageResult:
    """What a stage computed: named tensors and JSON-serialisable values."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Any = None


def content_key(*parts: Any) -> str:
    """Returns the sha256 hex digest of the canonical JSON of ``parts``; dataclasses count as their fields."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} cannot be part of a content key")

    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=plain).encode()).hexdigest()


class Store:
    """A directory of stage results.

    Args:
        root: where the entries lie; made at the first write.
        rebuild_damaged: what a damaged entry leads to: ``False`` refuses in one line, ``True`` warns and recomputes.

    Raises:
        UserError: ``root`` is a file, or lies below one.
    """

    def __init__(self, root: str | Path, *, rebuild_damaged: bool = False) -> None:
        self.root = Path(root)
        nearest = next((path for path in (self.root, *self.root.parents) if path.exists()), self.root)
        if nearest.exists() and not nearest.is_dir():
            raise UserError(f"cache.root={root}: {nearest} is a file; give a directory, which is made if need be")
        self.rebuild_damaged = rebuild_damaged
        self.hits: dict[str, int] = {}
        self.misses: dict[str, int] = {}
        self._told_unwritable = False

    @property
    def reused(self) -> tuple[str, ...]:
        """The stages that were read and never computed."""
        return tuple(stage for stage in self.hits if stage not in self.misses)

    @staticmethod
    def key(stage: str, inputs: Any) -> str:
        """Returns the content key of an entry; other code or other versions of the libraries make other entries."""
        return content_key(own_code_digest(), library_versions(), stage, inputs)

    def fetch(self, stage: str, inputs: Any, compute: Callable[[], StageResult]) -> StageResult:
        """Returns the stored result of ``stage`` for ``inputs``, or computes and stores it.

        Parallel jobs that want the same entry wait for the first one. A job killed while computing leaves nothing, and
        its lock with it.

        Raises:
            UserError: the entry's file is damaged or another's, and ``rebuild_damaged`` is off.
        """
        name = (stage, self.key(stage, inputs))
        path = self.root / stage / f"{name[1]}.entry"
        found = self._read(path, name)
        if found is None:
            with self._locked(path) as is_writable:
                found = self._read(path, name) if is_writable else None  # another job may have stored it meanwhile
                if found is None:
                    self.misses[stage] = self.misses.get(stage, 0) + 1
                    log.debug("%s: computing %s", stage, name[1][:12])
                    found = compute()
                    if is_writable:
                        self._write(path, name, found)
                    return found
        self.hits[stage] = self.hits.get(stage, 0) + 1
        return found

    def find(self, stage: str, inputs: Any) -> StageResult | None:
        """Returns the stored result of ``stage`` for ``inputs``, if there is one; nothing is computed or written.

        Raises:
            UserError: see ``fetch``.
        """
        key = self.key(stage, inputs)
        return self._read(self.root / stage / f"{key}.entry", (stage, key))

    def add(self, stage: str, inputs: Any, values: Mapping[str, Any]) -> None:
        """Adds named values to those of an entry that holds nothing else, which is made if there is none.

        Raises:
            UserError: see ``fetch``.
        """
        name = (stage, self.key(stage, inputs))
        path = self.root / stage / f"{name[1]}.entry"
        with self._locked(path) as is_writable:
            if is_writable:
                found = self._read(path, name)
                self._write(path, name, StageResult(values={**(found.values if found else {}), **values}))

    def holds(self, stage: str, inputs: Any) -> bool:
        """Whether there is a result of ``stage`` for ``inputs``, whole or damaged; it is not read."""
        return (self.root / stage / f"{self.key(stage, inputs)}.entry").exists()

    @contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Holds the lock of an entry; gives whether there is one: there is none where nothing can be written."""
        from filelock import FileLock, Timeout

        lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("waiting for another job that computes the same %s", path.parent.name)
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            self._tell_unwritable(error)
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _write(self, path: Path, name: tuple[str, str], result: StageResult) -> None:
        try:
            write_bytes(path, _pack(name, result))
        except OSError as error:
            self._tell_unwritable(error)

    def _tell_unwritable(self, error: Exception) -> None:
        if not self._told_unwritable:
            reason = getattr(error, "strerror", None) or str(error)
            log.warning("cache.root=%s cannot be written (%s): results are used, but not kept", self.root, reason)
        self._told_unwritable = True

    def _read(self, path: Path, name: tuple[str, str]) -> StageResult | None:
        try:
            return _unpack(name, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except ValueError as error:
            reason = str(error)
        if not self.rebuild_damaged:
            raise UserError(
                f"the cache entry {path} {reason}: delete it, or type cache.rebuild_damaged=true to compute it anew"
            )
        log.warning("the cache entry %s %s and is computed anew", path, reason)
        return None


def _checksum(name: tuple[str, str], payload: bytes) -> str:
    sha256 = hashlib.sha256(f"{' '.join(name)}\n".encode())
    sha256.update(payload)
    return sha256.hexdigest()


def _pack(name: tuple[str, str], result: StageResult) -> bytes:
    import torch
    from safetensors.torch import save

    text = torch.tensor(list(json.dumps(result.values).encode()), dtype=torch.uint8)
    payload = save({**{name: t.contiguous() for name, t in result.tensors.items()}, _JSON: text})
    return f"{_MAGIC} {' '.join(name)} {_checksum(name, payload)}\n".encode() + payload


def _unpack(name: tuple[str, str], content: bytes) -> StageResult:
    """The result of the entry of that name; ``ValueError`` says what is wrong with its file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, _, payload = content.partition(b"\n")
    words = header.decode(errors="replace").split(" ")
    if len(words) != 4 or words[0] != _MAGIC or words[3] != _checksum((words[1], words[2]), payload):
        raise ValueError("is damaged (its checksum differs)")
    if (words[1], words[2]) != name:
        raise ValueError(f"is another one under this name ({words[1]}/{words[2]})")
    try:
        tensors = load(payload)
        return StageResult(values=json.loads(bytes(tensors.pop(_JSON).tolist())), tensors=tensors)
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError("is damaged (its content cannot be read)") from error
