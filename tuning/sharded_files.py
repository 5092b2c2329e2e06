"""Checkpoints in shards: every process writes its part (``torch.distributed.checkpoint``), one file says what it is.

The file is as small as any checkpoint without its tensors, and names the folder of these. It takes the place of the
one before it when all parts are written, and the folder of that one goes then: there is a whole checkpoint always.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from tuning.sharding import empty
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SHARDS = "shards"
"""In the file: the folder of its tensors, beside it."""
_TENSOR, _IN_SHARDS = "tensor", "in_shards"


def write_tensors(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the tensors of a checkpoint, every process those that it has, and returns it with their names instead.

    Raises:
        OSError: No space, or no permission, for any of the processes.
    """
    tensors: dict[str, Tensor] = {}

    def take(value: Any, path: str) -> Any:
        if not isinstance(value, Tensor):
            return value
        tensors[path] = value.detach()
        return {_TENSOR: path, _IN_SHARDS: isinstance(value, DTensor)}

    outline = _walk(content, take)
    try:
        dcp.save(tensors, checkpoint_id=folder)
    except CheckpointException as error:
        raise OSError(str(next(iter(error.failures.values()))[0])) from error
    return {**outline, SHARDS: folder.name}


def read_tensors(content: dict[str, Any], path: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """The checkpoint whose file is ``path``, with its tensors: whole and on the CPU, or in shards of a mesh.

    Raises:
        UserError: They are missing or damaged.
    """
    if SHARDS not in content:
        return content
    folder = path.parent / content[SHARDS]
    try:
        sizes = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        tensors: dict[str, Tensor] = {}

        def place(value: Any, _: str) -> Any:
            if not _is_name(value):
                return value
            name, found = value[_TENSOR], sizes[value[_TENSOR]]
            if mesh is not None and value[_IN_SHARDS]:
                tensors[name] = empty(found.size, found.properties.dtype, mesh)
            else:
                tensors[name] = torch.empty(found.size, dtype=found.properties.dtype)
            return tensors[name]

        filled = _walk(content, place)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as is meant, without a mesh
            dcp.load(tensors, checkpoint_id=folder, no_dist=mesh is None)
    except (CheckpointException, OSError, RuntimeError, KeyError, EOFError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: the tensors of {path.name} are missing or damaged; type the command again without resume to "
            "start over"
        ) from error
    del filled[SHARDS]
    return filled


def remove(path: Path, *, but: str | None = None) -> None:
    """Removes the folders of a file's tensors, but one; without one to keep the file, too."""
    if but is None:
        path.unlink(missing_ok=True)
    for folder in path.parent.glob(f"{path.name}.{SHARDS}-*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def barrier() -> None:
    """Waits for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def _is_name(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_TENSOR, _IN_SHARDS}


def _walk(value: Any, convert: Callable[[Any, str], Any], path: str = "") -> Any:
    """What containers of plain kinds hold, converted, each with the names and positions that lead to it."""
    if isinstance(value, dict) and not _is_name(value):
        return {key: _walk(item, convert, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walk(item, convert, f"{path}/{index}") for index, item in enumerate(value))
    return convert(value, path)
