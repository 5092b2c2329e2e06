"""Digests that tell whether two networks hold the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """`"sha256:<hex>"` over names, dtypes, shapes and bytes of all parameters and buffers.

    The order of the names, the device and the memory layout do not count; non-persistent buffers of a module do not
    either. One flipped bit, a renamed or a recast tensor gives another digest.
    """
    import torch

    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    sha256 = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        header = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0"
        sha256.update(header.encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{sha256.hexdigest()}"


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces; a file that cannot be read is a `UserError`."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                sha256.update(piece)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return sha256.hexdigest()
