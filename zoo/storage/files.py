"""Atomic writing and strict reading of the project's own files.

A reader never meets a half-written file: every writer fills a temporary file in the same directory and renames it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from zoo.errors import UserError


@dataclass(frozen=True)
class ReportFiles:
    """Where the files of a search lie."""

    blueprint: Path
    table: Path
    figures: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.blueprint, self.table, *self.figures)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    Missing parent directories are made. The content is flushed to the disk before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 with a final newline, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content``, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused (``ValueError``): JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def write_yaml(path: str | Path, value: Any) -> None:
    """Write plain data as YAML, atomically; see ``dump_yaml``."""
    write_text(path, dump_yaml(value))


def write_safetensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write copies of ``tensors`` (CPU, contiguous, shared storage told apart) and ``metadata``, atomically."""
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(copies, metadata=dict(metadata)))  # save_file would hide the file from other users


def dump_yaml(value: Any) -> str:
    """YAML text in the order given; whatever lies deeper than two levels stays on one line, like a recipe."""
    return yaml.dump(value, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=120)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, no text, no YAML, no mapping at its top, or has a key twice.
    """
    try:
        value = yaml.load(_read_text(path), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {_one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of fields at the top, got {type(value).__name__}")
    return value


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ``UserError`` if it is missing or damaged."""
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read all tensors (on the CPU) and the metadata; ``UserError`` if the file is missing, truncated or damaged."""
    _require_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated weights file: {_one_line(error)}") from error


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
        raise UserError(f"{path}: cannot be read: {error.strerror or _one_line(error)}") from error
    except _ARCHIVE_FAULTS as error:
        raise UserError(f"{path}: damaged or truncated: {_one_line(error)}") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged: the bytes of {damaged} do not fit the checksum that the file has of them")


_ARCHIVE_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)


class _StrictLoader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _RecipeDumper(yaml.SafeDumper):
    def represent(self, data: Any) -> None:
        node = self.represent_data(data)
        _lay_out(node, depth=0)
        self.serialize(node)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _lay_out(node: yaml.Node, depth: int) -> None:
    if isinstance(node, yaml.CollectionNode):
        node.flow_style = depth >= 2
        children = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            _lay_out(child, depth + 1)


def _read_text(path: str | Path) -> str:
    _require_file(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file: {_one_line(error)}") from error


def _require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        reason = "is a directory" if Path(path).is_dir() else "does not exist"
        raise UserError(f"{path}: expected a file, but it {reason}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
