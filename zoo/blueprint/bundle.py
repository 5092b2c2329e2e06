"""Bundles: a blueprint and what was learnt, in one directory that travels.

    blueprint.yaml        which parts of which networks, with their digests
    weights.safetensors   the learnt tensors only, or every tensor of the composed network

The header of the weights holds the digest of the tensors and that of the blueprint they belong to, so that damage and
files that do not belong together are told from a good bundle. The weights are written last: without them there is no
bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.blueprint.blueprint import read_blueprint, to_text, write_blueprint
from zoo.digests import digest
from zoo.errors import UserError
from zoo.storage import files

FORMAT = "huozi-bundle/1"
BLUEPRINT_FILE = "blueprint.yaml"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A composed network without what can be had from the zoo.

    Attributes:
        blueprint: any method's blueprint.
        tensors: by their names in the composed network.
        complete: whether ``tensors`` are all of the network's, so that the zoo's weights are not needed, only its
            architectures; then the digests in the blueprint say where the network began, and are not checked.
    """

    blueprint: Any
    tensors: Mapping[str, Tensor]
    complete: bool


def write_bundle(directory: str | Path, bundle: Bundle) -> None:
    """Write a bundle into ``directory``, over one that is there; each file is replaced atomically."""
    metadata = {
        "format": FORMAT,
        "contents": "complete" if bundle.complete else "learnt",
        "tensors": digest(bundle.tensors),
        "blueprint": _text_digest(bundle.blueprint),
    }
    write_blueprint(Path(directory) / BLUEPRINT_FILE, bundle.blueprint)
    files.write_safetensors(Path(directory) / WEIGHTS_FILE, bundle.tensors, metadata)


def read_bundle(directory: str | Path, *kinds: type) -> Bundle:
    """Read and verify a bundle.

    Args:
        directory: what ``write_bundle`` wrote.
        kinds: the blueprint dataclasses that may occur, see ``read_blueprint``.

    Raises:
        UserError: one line: a missing, damaged or truncated file, an unsupported format, weights of another blueprint.
    """
    blueprint = read_blueprint(Path(directory) / BLUEPRINT_FILE, *kinds)
    path = Path(directory) / WEIGHTS_FILE
    tensors, metadata = files.read_safetensors(path)
    if metadata.get("format") != FORMAT or metadata.get("contents") not in ("complete", "learnt"):
        raise UserError(f"{path}: format {metadata.get('format')!r} is not supported; expected {FORMAT}")
    if metadata.get("tensors") != digest(tensors):
        raise UserError(f"{path}: damaged: its tensors differ from the digest in its header; copy the bundle anew")
    if metadata.get("blueprint") != _text_digest(blueprint):
        raise UserError(f"{path}: these weights belong to another blueprint than {BLUEPRINT_FILE} beside them")
    return Bundle(blueprint, tensors, complete=metadata["contents"] == "complete")


def _text_digest(blueprint: Any) -> str:
    return hashlib.sha256(to_text(blueprint).encode()).hexdigest()
