"""Content-addressed results of the expensive stages: features, similarity, partition, scores.

An entry's name is the sha256 of everything its value depends on (stage, settings, digests of weights and data), so a
changed setting misses and redoes only what depends on it. An entry is one file, written atomically under a lock, with a
checksum that is verified at each read. It holds tensors (safetensors) and plain JSON values; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from zoo.errors import UserError
from zoo.storage.files import write_bytes

log = logging.getLogger(__name__)

_MAGIC = b"huozi-store/1"
_JSON = "__json__"


@dataclass(frozen=True)
class Entry:
    """What a stage computed: named tensors and JSON-serialisable values."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
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
        rebuild_damaged: what a failed checksum leads to: ``False`` refuses in one line, ``True`` warns and recomputes.
    """

    def __init__(self, root: str | Path, *, rebuild_damaged: bool = False) -> None:
        self.root = Path(root)
        self.rebuild_damaged = rebuild_damaged
        self.hits: dict[str, int] = {}
        self.misses: dict[str, int] = {}

    @property
    def reused(self) -> tuple[str, ...]:
        """The stages that were read and never computed."""
        return tuple(stage for stage in self.hits if stage not in self.misses)

    @staticmethod
    def key(stage: str, inputs: Any) -> str:
        """Returns the content key of an entry; another version of the code makes other entries."""
        return content_key(version("huozi"), stage, inputs)

    def fetch(self, stage: str, inputs: Any, compute: Callable[[], Entry]) -> Entry:
        """Returns the stored entry of ``stage`` for ``inputs``, or computes and stores it.

        Parallel jobs that want the same entry wait for the first one. A job killed while computing leaves nothing.

        Raises:
            UserError: the entry's file does not match its checksum and ``rebuild_damaged`` is off.
        """
        path = self.root / stage / f"{self.key(stage, inputs)}.entry"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            entry = self._read(path) if path.exists() else None
            counter = self.misses if entry is None else self.hits
            counter[stage] = counter.get(stage, 0) + 1
            if entry is None:
                log.debug("%s: computing %s", stage, path.stem[:12])
                entry = compute()
                write_bytes(path, _pack(entry))
        return entry

    def _read(self, path: Path) -> Entry | None:
        header, _, payload = path.read_bytes().partition(b"\n")
        if header == _header(payload):
            tensors = load_safetensors(payload)
            return Entry(values=json.loads(bytes(tensors.pop(_JSON).tolist())), tensors=tensors)
        if not self.rebuild_damaged:
            raise UserError(
                f"the cache entry {path} is damaged (its checksum differs): delete that file, "
                "or type cache.rebuild_damaged=true to compute it anew"
            )
        log.warning("the cache entry %s is damaged and is computed anew", path)
        return None


def _header(payload: bytes) -> bytes:
    return _MAGIC + b" " + hashlib.sha256(payload).hexdigest().encode()


def _pack(entry: Entry) -> bytes:
    text = torch.tensor(list(json.dumps(entry.values).encode()), dtype=torch.uint8)
    payload = save_safetensors({**{name: t.contiguous() for name, t in entry.tensors.items()}, _JSON: text})
    return _header(payload) + b"\n" + payload
