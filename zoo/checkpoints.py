"""Checkpoint files of any training code, read down to a plain mapping from key to tensor; no code in them is run."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.storage.files import read_safetensors

# Where checkpoints keep their state dict; averaged weights come first.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "teacher", "params"),
)

_log = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of what `torch.save` wrote, by key and on the CPU.

    Read are a state dict, one inside the usual wrappers (EMA weights first) and Lightning's checkpoints; the prefixes
    of `torch.compile` and DistributedDataParallel are taken off.

    Raises:
        UserError: Damaged, a TorchScript archive, or more than tensors; with the way to convert it.
    """
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else _unpickle(path)
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in _unwrap(content, path).items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def shorten(keys: Sequence[str], limit: int = 3) -> str:
    """The first few of many keys, and how many more there are."""
    more = f" (+{len(keys) - limit} more)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _unpickle(path: Path) -> Any:
    if _is_torchscript(path):
        raise UserError(
            f"weights file {path} is a TorchScript archive; write its tensors to another file, in Python: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'tensors.pth')"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of saving, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, UnicodeDecodeError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UserError(
                f"weights file {path} holds more than tensors ({found[1]}), and reading that could run code; where it "
                "was made, write the tensors alone to another file: torch.save(network.state_dict(), 'tensors.pth')"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = "not written by torch.save" if "weights_only" in reason else reason
        raise UserError(f"weights file {path} is damaged or holds more than tensors: {reason}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _may_hold_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(part, (Tensor, Mapping)) for part in value.values())


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if _may_hold_tensors(content.get(key))), None)
        if wrapper is None:
            break
        _log.info("%s: reading the weights under %r", path.name, wrapper)
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"weights file {path} holds no state dict but a {type(content).__name__}")
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = shorten(others) or "nothing"
        wrappers = ", ".join(WRAPPERS)
        raise UserError(f"weights file {path} holds no state dict, nor one under {wrappers}; it holds {found}")
    return {str(key): value for key, value in content.items()}
