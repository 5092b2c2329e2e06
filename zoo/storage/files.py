"""Atomic writing and strict reading of the project's own files.

A reader never meets a half-written file: every writer fills a temporary file in the same directory and renames it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import hashlib
import importlib.util
import io
import json
import os
import platform
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.storage.plain import MAX_BYTES, MAX_JSON_BYTES, dump_yaml, one_line, parse_json, parse_yaml

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ReportFiles:
    """Where the files of a search lie; of the figures as PNG, an SVG of the same name is beside each."""

    blueprint: Path
    table: Path
    figures: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them."""
        drawn = (*self.figures, *(path.with_suffix(".svg") for path in self.figures))
        return (self.blueprint, self.table, *self.others, *drawn)


@contextlib.contextmanager
def atomic_path(path: str | Path, *, follows_links: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    Missing parent directories are made; the content is on the disk before the rename; permissions are those of any new
    file; of a symbolic link the file that it leads to is replaced, and no directory is made there. What killed writers
    left beside it is removed.

    Args:
        path: What is written.
        follows_links: if not, a symbolic link itself is replaced.

    Raises:
        OSError: with ``path`` as its file name, whatever could not be done: a full disk, no permission, a directory of
            that name.
    """
    with _atomic_paths([Path(path)], follows_links=follows_links) as (temporary,):
        yield temporary


@contextlib.contextmanager
def _atomic_paths(paths: Sequence[Path], *, follows_links: bool = True) -> Iterator[list[Path]]:
    """``atomic_path`` of several files: all are on the disk before one takes its place, one right after the other."""
    targets = [Path(os.path.realpath(path)) if follows_links else path for path in paths]
    temporaries: list[Path] = []
    try:
        for path, target in zip(paths, targets, strict=True):
            if path != target and path.is_symlink() and not target.parent.is_dir():
                raise OSError(errno.ENOENT, f"it is a link into a directory that is not there: {target}", str(path))
            temporaries.append(_temporary(target))
        yield temporaries
        for temporary in temporaries:
            _flush(temporary)
        for temporary, target in zip(temporaries, targets, strict=True):
            os.replace(temporary, target)
        for directory in dict.fromkeys(target.parent for target in targets):
            _flush_directory(directory)
    except OSError as error:
        about = dict(zip(map(str, temporaries), targets, strict=False))
        name = str(error.filename) if error.filename is not None else str(temporaries[-1] if temporaries else "")
        if name not in about:
            raise  # about another file, or told by the file's own name
        raise OSError(error.errno, error.strerror or str(error), str(about[name])) from error
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 with a final newline, atomically."""
    write_bytes(path, _encoded(text))


def write_bytes(path: str | Path, content: bytes, *, follows_links: bool = True) -> None:
    """Write ``content``, atomically; see ``atomic_path``."""
    with atomic_path(path, follows_links=follows_links) as temporary:
        temporary.write_bytes(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, atomically each: all are whole on the disk before one takes its place.

    Killed between the renames, the first is new and the last old: a reader has to tell whether files belong together.
    """
    with _atomic_paths(list(contents)) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            try:
                temporary.write_bytes(content)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(temporary)) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused (``ValueError``): JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, its names in the first row; ``None`` is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


def write_yaml(path: str | Path, value: Any) -> None:
    """Write plain data as YAML, atomically; see ``dump_yaml``."""
    write_text(path, dump_yaml(value))


def write_safetensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write copies of ``tensors`` (CPU, contiguous, shared storage told apart) and ``metadata``, atomically."""
    write_bytes(path, safetensors_bytes(tensors, metadata))  # save_file would hide the file from other users


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """What ``write_safetensors`` writes."""
    from safetensors.torch import save  # with torch, which a command that only reads text does without

    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content = save(copies, metadata=dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))  # whose order is another one in every process
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; see ``zoo.storage.plain`` for what our YAML knows.

    Raises:
        UserError: the file is missing, no text, too large, not our YAML, or no mapping at its top.
    """
    value = parse_yaml(_read_text(path, MAX_BYTES), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of fields at the top, got {type(value).__name__}")
    return value


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ``UserError`` if it is missing, damaged or too large."""
    return parse_json(_read_text(path, MAX_JSON_BYTES), str(path))


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read all tensors (on the CPU) and the metadata; ``UserError`` if the file is missing, truncated or damaged."""
    with _opened_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def require_whole_safetensors(path: str | Path) -> None:
    """Read the header alone; ``UserError`` if the file is missing, or shorter or longer than its header says."""
    with _opened_safetensors(path):
        return


@contextlib.contextmanager
def _opened_safetensors(path: str | Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    _require_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated weights file: {one_line(error)}") from error


def user_cache() -> Path:
    """Where what is kept for all projects of a user lies: ``$XDG_CACHE_HOME/huozi``, ``~/.cache/huozi`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huozi")


def installed_file(package: str, path: str) -> Path:
    """A file that an installed package brings along; the package, which may be heavy, is not imported.

    Raises:
        UserError: the package is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{package} is not installed: pip install -e . brings it")
    return Path(found.submodule_search_locations[0]) / path


def require_whole_archive(path: str | Path) -> None:
    """Read every member of a zip archive, as `torch.save` writes, against the archive's own checksums.

    `torch.load` does not read them: a flipped bit of a weight would pass.

    Raises:
        UserError: the file is missing, no zip archive, truncated, or a member's bytes do not fit its checksum.
    """
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
    except _ARCHIVE_FAULTS as error:
        raise UserError(f"{path}: damaged or truncated: {one_line(error)}") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged: the bytes of {damaged} do not fit the checksum that the file has of them")


_ARCHIVE_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)


def _read_text(path: str | Path, max_bytes: int) -> str:
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file: {one_line(error)}") from error


def read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """Read a file of at most ``max_bytes``.

    Raises:
        UserError: the file is missing, cannot be read, or is larger; nothing more than the limit is read then.
    """
    _require_file(path)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > max_bytes:
                raise UserError(f"{path}: larger than {max_bytes:,} bytes, which is the most that is read")
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _require_file(path: str | Path) -> None:
    try:
        if Path(path).is_file():
            return
        there = "it is no regular file" if Path(path).exists() else "it does not exist"
        reason = "it is a directory" if Path(path).is_dir() else there
    except OSError as error:  # no permission, or a name that is too long
        reason = f"it cannot be had: {error.strerror}"
    raise UserError(f"{path}: expected a file, but {reason}")


def _encoded(text: str) -> bytes:
    return (text if text.endswith("\n") else text + "\n").encode()


_PREFIX = ".huozi-"


def _temporary(path: Path) -> Path:
    """A new name beside ``path`` that says who writes; makes the directory, and removes what killed writers left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for other in path.parent.glob(f"{_PREFIX}*.tmp"):
        with contextlib.suppress(OSError):
            if _is_abandoned(other):
                other.unlink()
    return path.with_name(f"{_PREFIX}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _is_abandoned(temporary: Path) -> bool:
    """Whether its writer is dead; of another host's, which cannot be asked, whether it is a day old."""
    try:
        host, process = temporary.stem.removeprefix(_PREFIX).split("-")[:2]
        if host != _host():
            return time.time() - temporary.stat().st_mtime > 24 * 60 * 60
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):  # another's file; a process of another user, which lives
        return False
    return False


@functools.cache
def _host() -> str:
    """Short digest that tells machines, and containers on one machine, apart: process numbers are unique within it."""
    namespace = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:12]


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
