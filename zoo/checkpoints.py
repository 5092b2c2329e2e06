"""Checkpoint files of any training code, read down to a plain mapping from key to tensor; no code in them is run."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from zoo.digests import file_sha256
from zoo.errors import FOREIGN_FAULTS, UserError, reason
from zoo.storage.files import read_json, read_safetensors, require_whole_archive

# Where checkpoints keep their state dict; averaged weights come first.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "teacher", "params"),
)

_log = logging.getLogger(__name__)


INDEX_SUFFIX = ".index.json"
IN_FOLDERS = tuple(f"{name}{end}" for name in ("model.safetensors", "pytorch_model.bin") for end in (INDEX_SUFFIX, ""))
"""What a model's folder is read by, as Hugging Face writes it; the first that is there."""

# Beginnings of files that are no weights, or none that are read.
FOREIGN_BEGINNINGS = {
    b"version https://git-lfs": "is a git-lfs pointer instead of the file; type: git lfs pull",
    b"<": "is a web page or XML, not weights; download the file itself",
    b"\x89HDF": "is HDF5 (Keras); write its tensors with safetensors where it was made",
    b"\x93NUMPY": "is a single array of numpy; write all tensors with safetensors",
    b"\x1f\x8b": "is a compressed archive; unpack it and give the file inside",
}
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""Near the beginning of what `torch.save` wrote before it wrote zip archives."""


def read_tensors(path: Path, key: str = "", *, is_checked: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key and on the CPU.

    Read are `.safetensors`, what `torch.save` wrote in either format, and both in shards: by the index, or by the
    folder that holds it. Of the content, a state dict, one inside the usual wrappers (EMA weights first) and
    Lightning's checkpoints; the prefixes of `torch.compile` and DistributedDataParallel are taken off.

    Args:
        path: A file or a folder.
        key: Where the state dict lies inside the file (`a.b` inside of `a`), instead of the usual wrappers.
        is_checked: The file was held against a digest, so that a format without checksums needs no warning.

    Raises:
        UserError: Damaged, truncated, a missing shard, another kind of file, or more than tensors; with the way on.
    """
    parts = files_of(path)
    content = _read(parts[0], is_checked) if len(parts) == 1 else _read_shards(*parts, is_checked=is_checked)
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in _unwrap(content, path, key).items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    empty = [name for name, tensor in state.items() if tensor.is_meta]
    if empty:
        raise UserError(f"weights file {path} holds no numbers for {shorten(empty)}: they were on the meta device")
    return state


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a checkpoint consists of, an index first.

    Raises:
        UserError: A folder without weights, a damaged index, shards that are missing or lie outside of the folder.
    """
    if path.is_dir():
        found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"weights file {path} is a folder without {', '.join(IN_FOLDERS)}; name the file in it")
        path = found
    if not path.name.endswith(INDEX_SUFFIX):
        return (path,)
    index = read_json(path)
    shards = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(shards, Mapping) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"weights file {path}: expected `weight_map`, a mapping from every key to the file it lies in")
    names = sorted(set(shards.values()))
    outside = [n for n in names if n in ("", ".", "..") or {PurePosixPath(n).name, PureWindowsPath(n).name} != {n}]
    if outside:
        raise UserError(f"weights file {path} names files outside of its folder: {shorten(outside)}")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UserError(
            f"weights file {path} lacks {len(missing)} of its {len(names)} shards: {shorten(missing)}; "
            "put them beside it"
        )
    return (path, *(path.parent / name for name in names))


def checkpoint_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes; of a checkpoint in shards, that of the digests of its files."""
    digests = [file_sha256(part) for part in files_of(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def shorten(keys: Sequence[str], limit: int = 3) -> str:
    """The first few of many keys, and how many more there are."""
    more = f" (+{len(keys) - limit} more)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _read_shards(index: Path, *shards: Path, is_checked: bool) -> dict[str, Any]:
    content = {shard.name: _read(shard, is_checked) for shard in shards}
    state = {}
    for name, shard in read_json(index)["weight_map"].items():
        if not isinstance(content[shard], Mapping) or name not in content[shard]:
            raise UserError(f"weights file {index.parent / shard} lacks {name}, which {index.name} says is in it")
        state[name] = content[shard][name]
    return state


def _read(path: Path, is_checked: bool) -> Any:
    """What a file holds, after a look at what it is."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip():
        raise UserError(f"weights file {path} is empty; download or copy it again")
    for beginning, told in FOREIGN_BEGINNINGS.items():
        if head.lstrip().startswith(beginning):
            raise UserError(f"weights file {path} {told}")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return read_safetensors(path)[0]
    if zipfile.is_zipfile(path):
        _require_torch_archive(path)
        require_whole_archive(path)
    elif head.startswith(b"PK\x03\x04"):
        raise UserError(
            f"weights file {path} is truncated: the end of its archive is missing; download or copy it again"
        )
    elif TORCH_MAGIC not in head[:32]:
        kind = "a pickle" if head.startswith(b"\x80") else "of another kind (ONNX, TensorFlow, text, cut off in front)"
        raise UserError(
            f"weights file {path} is {kind}, not written by torch.save or safetensors; where it was made, type: "
            "torch.save(network.state_dict(), 'tensors.pth')"
        )
    elif not is_checked:
        _log.warning("%s: saved in torch's old format, which has no checksums; weights.sha256 would tell damage", path)
    return _unpickle(path)


def _require_torch_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(
            f"weights file {path} is a TorchScript archive; write its tensors to another file, in Python: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'tensors.pth')"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"weights file {path} is a zip archive of other things ({shorten(names)}), not of torch.save")


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of saving, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except FOREIGN_FAULTS as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UserError(
                f"weights file {path} holds more than tensors ({found[1]}), and reading that could run code; where it "
                "was made, write the tensors alone to another file: torch.save(network.state_dict(), 'tensors.pth')"
            ) from error
        raise UserError(f"weights file {path} is damaged or holds more than tensors: {reason(error)}") from error


def _may_hold_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(part, (Tensor, Mapping)) for part in value.values())


def _unwrap(content: Any, path: Path, key: str) -> dict[str, Tensor]:
    at = key
    if key:
        content = _inside(content, key, path)
    while isinstance(content, Mapping) and not key:
        wrapper = next((name for name in WRAPPERS if _may_hold_tensors(content.get(name))), None)
        if wrapper is None:
            break
        _log.info("%s: reading the weights under %r", path.name, wrapper)
        content, at = content[wrapper], ".".join(filter(None, (at, wrapper)))
    if not isinstance(content, Mapping):
        raise UserError(f"weights file {path} holds no state dict but a {type(content).__name__}")
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found, wrappers = shorten(others) or "nothing", ", ".join(WRAPPERS)
        inside = [".".join(filter(None, (at, str(n)))) for n, value in content.items() if _may_hold_tensors(value)]
        advice = f"; set weights.key={' or '.join(inside[:4])}" if inside else ""
        where = f"under {at}" if at else f"nor one under {wrappers}"
        raise UserError(f"weights file {path} holds no state dict, {where}; it holds {found}{advice}")
    return {str(name): value for name, value in content.items()}


def _inside(content: Any, key: str, path: Path) -> Any:
    """What lies under the key, whose dots lead inside except where a name has them itself."""
    rest = key
    while rest:
        names = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
        found = [name for name in names if name and (rest == name or rest.startswith(f"{name}."))]
        if not found:
            there = f"keys {shorten(list(names))}" if names else f"a {type(content).__name__}"
            raise UserError(f"weights.key: got {key!r}, but {rest!r} is not in {path}; there it holds {there}")
        name = max(found, key=len)
        content, rest = names[name], rest[len(name) + 1 :]
    return content
