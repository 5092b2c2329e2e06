"""Files of weights that are converted: `weights.convert` and `python -m zoo convert`."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.checkpoints import checkpoint_sha256, read_tensors
from zoo.digests import digest
from zoo.errors import FOREIGN_FAULTS, UserError, reason
from zoo.limits import shown
from zoo.storage.files import read_safetensors, user_cache, write_bytes, write_safetensors
from zoo.storage.places import require_file
from zoo.storage.sources import module_digest, own_code_digest
from zoo.storage.store import content_key

FORMAT = "huozi-weights/1"

_log = logging.getLogger(__name__)


def convert(path: Path, function: str) -> dict[str, Tensor]:
    """What a function makes of a file, called in this process.

    Args:
        path: Of the file.
        function: `module:function`, from a path to a mapping from key to tensor or array of numpy; empty reads the file
            as zoos read checkpoints.

    Raises:
        UserError: No such file or function, whatever the function raises, another result than a state dict.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the file that is to be converted")
    if not function:
        return read_tensors(path)
    called = _find(function)
    try:
        result = called(path)
    except UserError:
        raise
    except FOREIGN_FAULTS as error:
        raise UserError(f"converter {function} fails at {path}: {reason(error)}") from error
    return _state(result, function)


def write_converted(path: Path, function: str, output: Path) -> Mapping[str, str]:
    """Converts a file and writes the result as safetensors, whole or not at all.

    Returns:
        What is written beside the tensors: their digest, and what they were made of by what.

    Raises:
        UserError: See `convert`; the output is not written then.
    """
    if output.suffix != ".safetensors":
        raise UserError(f"{output} is written as safetensors: give a name that ends so")
    require_file("", output)
    state = convert(path, function)
    told = {
        "format": FORMAT,
        "digest": digest(state),
        "source": path.name,
        "source_sha256": checkpoint_sha256(path),
        "convert": function,
        "code_sha256": _code(function),
        **{f"{name}_version": version(name) for name in ("torch", "numpy")},
    }
    try:
        write_safetensors(output, state, told)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}; give another place") from error
    return told


def converted(path: Path, function: str) -> dict[str, Tensor]:
    """What a function makes of a file, called once in a process of its own; the result is kept in the user's cache.

    So no code that a file needs runs where networks are loaded. Another file, or other code, is converted anew, and so
    is a kept result that is damaged.

    Raises:
        UserError: See `convert`.
    """
    key = content_key(checkpoint_sha256(path), function, _code(function))
    kept = user_cache() / "converted" / f"{key}.safetensors"
    found = _read(kept)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "converted.safetensors"
        _run("convert", str(path), str(output), "--with", function)
        found = read_safetensors(output)[0]
        try:
            write_bytes(kept, output.read_bytes())
        except OSError as error:
            _log.warning("%s cannot be written (%s): %s is converted anew next time", kept, error.strerror, path.name)
    return found


def _find(function: str) -> Callable[[Path], object]:
    module, _, name = function.partition(":")
    if not module or not name:
        raise UserError(f"converter {shown(function)}: give module:function, e.g. my_package.weights:read")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except FOREIGN_FAULTS as error:
        raise UserError(f"converter {function}: {module} cannot be imported: {reason(error)}") from error
    if not callable(found):
        raise UserError(f"converter {function}: {module} has no function {name!r}")
    return found


def _state(result: object, function: str) -> dict[str, Tensor]:
    if not isinstance(result, Mapping) or not result:
        kind = "nothing in it" if isinstance(result, Mapping) else type(result).__name__
        raise UserError(f"converter {function} returned {kind}, expected a mapping from key to tensor")
    state = {}
    for key, given in result.items():
        tensor = _tensor(given)
        if not isinstance(key, str) or tensor is None:
            kinds = f"{type(key).__name__} to {type(given).__name__}"
            raise UserError(f"converter {function} returned {kinds} ({key!r}), expected text to tensors")
        state[key] = tensor
    return state


def _tensor(given: object) -> Tensor | None:
    """A dense tensor on the CPU; None of what is none."""
    if isinstance(given, np.ndarray):
        try:
            given = torch.from_numpy(np.array(given, given.dtype.newbyteorder("="), order="C"))
        except TypeError:  # of objects or text
            return None
    is_dense = isinstance(given, Tensor) and given.layout is torch.strided and not given.is_meta
    return given.detach().cpu() if is_dense else None


def _code(function: str) -> str:
    """Digest of what a function is written in; ours counts as a whole."""
    return (module_digest(function.partition(":")[0]) if function else None) or own_code_digest()


def _read(kept: Path) -> dict[str, Tensor] | None:
    if not kept.exists():
        return None
    try:
        state, told = read_safetensors(kept)
    except UserError as error:
        _log.warning("%s; it is converted anew", error)
        return None
    if digest(state) != told.get("digest"):
        _log.warning("%s is damaged; it is converted anew", kept)
        return None
    return state


def _run(*arguments: str) -> None:
    """`python -m zoo` with these arguments, in a process that finds the same modules."""
    places = os.pathsep.join(place or os.getcwd() for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *arguments],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(told[-1].removeprefix("error: "))
