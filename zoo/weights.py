"""Trained weights out of files, fitted to a network by name or by order."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.files import read_safetensors

PROJECT_ROOT = Path(__file__).resolve().parents[1]
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model")  # averaged weights come first

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Where trained weights come from: a hub or a file.

    Attributes:
        hub: Tag of timm's or torchvision's hub, or True for the default tag of the network.
        file: `.safetensors` or `.pth` file; a relative path starts at the project's root (the folder of `zoo/`).
        key_prefix: Only the keys that start so are read, without it (`backbone.`).
        match: `name` fits tensors by key, `order` by position and shape (for foreign key names).
        sha256: Hexadecimal digest that the file must have.
    """

    hub: str | bool | None = None
    file: str | None = None
    key_prefix: str = ""
    match: Literal["name", "order"] = "name"
    sha256: str | None = None

    def __post_init__(self) -> None:
        if bool(self.hub) == bool(self.file):
            raise UserError("weights: give one of `hub` (a tag, or true) and `file` (a path), or no weights at all")
        if self.hub and (self.key_prefix or self.sha256 or self.match != "name"):
            raise UserError("weights: `key_prefix`, `match` and `sha256` belong to `file`, not to `hub`")

    @property
    def path(self) -> Path:
        """The file, absolute."""
        assert self.file is not None
        return PROJECT_ROOT / Path(self.file).expanduser()


def load_file(network: nn.Module, weights: Weights, name: str) -> None:
    """Fill `network` from `weights.file`, every tensor of it, in the network's own precision.

    Args:
        network: Changed in place, and only after everything was found to fit.
        weights: Has a `file`.
        name: Of the zoo entry, for messages.

    Raises:
        UserError: The file is missing, damaged, of another digest, or does not fit; keys are named, shortened.
    """
    try:
        state = read_state(weights)
        matched = match_state(network, state, weights.match)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    network.load_state_dict(matched, strict=True)


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The tensors of the file by key, out of checkpoint wrappers (averaged weights first) and without prefixes."""
    path = weights.path
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist; put it there or set weights.file")
    if weights.sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != weights.sha256.removeprefix("sha256:"):
            raise UserError(f"weights file {path} has sha256 {found[:12]}..., expected {weights.sha256[:12]}...")
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_checkpoint(path)
    state = _unwrap(content, path)
    for prefix in ("module.", weights.key_prefix):  # DistributedDataParallel adds the first
        if prefix == weights.key_prefix or all(key.startswith(prefix) for key in state):
            kept = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
            if not kept:
                raise UserError(f"no key of {path} starts with {prefix!r}; its keys are {_shorten(list(state))}")
            state = kept
    return state


def match_state(network: nn.Module, state: Mapping[str, Tensor], match: str) -> dict[str, Tensor]:
    """The state that fits the network, keys renamed where the match is by order.

    By order, counters of BatchNorm (`num_batches_tracked`) keep the network's own value: not every framework has them.
    """
    own = network.state_dict()
    if match == "order":
        own_keys, keys = ([key for key in names if not key.endswith("num_batches_tracked")] for names in (own, state))
        for own_key, key in zip(own_keys, keys, strict=False):
            if own[own_key].shape != state[key].shape:
                raise UserError(
                    f"weights do not fit by order: {key} {_shape(state[key])} meets {own_key} {_shape(own[own_key])}"
                )
        if len(keys) != len(own_keys):
            raise UserError(f"weights do not fit by order: {len(keys)} tensors for {len(own_keys)} of the network")
        return {**own, **{own_key: state[key] for own_key, key in zip(own_keys, keys, strict=True)}}
    misfits = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {_shape(state[key])} for {_shape(own[key])}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(misfits.values()):
        found = "; ".join(f"{kind}: {_shorten(keys)}" for kind, keys in misfits.items() if keys)
        raise UserError(f"weights do not fit by name: {found}; see weights.key_prefix and weights.match")
    return dict(state)


def _read_checkpoint(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"weights file {path} is damaged or holds more than tensors: {reason}") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        _log.info("%s: reading the weights under %r", path.name, wrapper)
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        keys = _shorten(list(map(str, content))) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"weights file {path} holds no state dict, nor one under {', '.join(WRAPPERS)}; it holds {keys}"
        )
    return dict(content)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _shorten(keys: Sequence[str], limit: int = 3) -> str:
    more = f" (+{len(keys) - limit} more)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
