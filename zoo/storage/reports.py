"""Reports that are drawn once: the files of a search, kept like the results of its stages."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.storage.files import ReportFiles, write_bytes
from zoo.storage.store import StageResult, Store


def kept_report(
    store: Store, inputs: Any, directory: Path, write: Callable[[Path], ReportFiles], method: str
) -> ReportFiles:
    """Writes the files of a report into ``directory``: those of an earlier report of the same inputs, or new ones.

    Drawing takes longer than all else that a repeated search does.

    Args:
        inputs: All that the report depends on beside the code, see ``Store``.
        write: Writes the files into the directory that it is given and says which they are.
        method: Whose report it is.
    """
    import numpy as np
    import torch

    def compute() -> StageResult:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            report = write(root)
            names = {field.name: _names(root, getattr(report, field.name)) for field in dataclasses.fields(report)}
            contents = {_names(root, path): np.frombuffer(path.read_bytes(), np.uint8).copy() for path in report.all}
        return StageResult({name: torch.from_numpy(content) for name, content in contents.items()}, names)

    found = store.fetch(f"{method}_report", inputs, compute)
    for name, content in found.tensors.items():
        write_bytes(directory / name, content.numpy().tobytes())
    return ReportFiles(**{field: _paths(directory, names) for field, names in found.values.items()})


def _names(root: Path, paths: Path | tuple[Path, ...]) -> str | list[str]:
    one = isinstance(paths, Path)
    return paths.relative_to(root).as_posix() if one else [path.relative_to(root).as_posix() for path in paths]


def _paths(directory: Path, names: str | list[str]) -> Path | tuple[Path, ...]:
    return directory / names if isinstance(names, str) else tuple(directory / name for name in names)
