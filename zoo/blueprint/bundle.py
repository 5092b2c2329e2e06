"""Bundles: a blueprint and what was learnt, in one directory that travels.

    blueprint.yaml        which parts of which networks, with their digests
    interface.yaml        what the network takes and gives, and what its networks are built by (``zoo.interface``)
    weights.safetensors   the learnt tensors only, or every tensor of the composed network

The header of the weights holds the digest of the tensors and those of the texts they belong to, so that damage and
files that do not belong together are told from a good bundle, and what the network was tuned on
(``zoo.blueprint.seen``). The weights are written last: without them there is no bundle. Bundles of earlier versions
have no ``interface.yaml``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.blueprint.blueprint import read_blueprint, text_digest, to_text
from zoo.blueprint.seen import SeenImages, from_json, to_json
from zoo.digests import digest
from zoo.errors import UserError
from zoo.storage import files
from zoo.storage.plain import MAX_BYTES, dump_yaml

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "huozi-bundle/1"
BLUEPRINT_FILE = "blueprint.yaml"
INTERFACE_FILE = "interface.yaml"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A composed network without what can be had from the zoo.

    Attributes:
        blueprint: any method's blueprint.
        tensors: by their names in the composed network.
        complete: whether ``tensors`` are all of the network's, so that the zoo's weights are not needed, only its
            architectures; then the digests in the blueprint say where the network began, and are not checked.
        interface: plain data of ``zoo.interface``; None in bundles that have none.
        seen: what it was tuned on, a record for every training, the first one first.
    """

    blueprint: Any
    tensors: Mapping[str, Tensor]
    complete: bool
    interface: Mapping[str, Any] | None = None
    seen: tuple[SeenImages, ...] = ()

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"`` of blueprint and tensors: by it a network tuned further names its parent."""
        content = f"{text_digest(self.blueprint)} {digest(self.tensors)}"
        return f"sha256:{_sha256(content.encode())}"


def write_bundle(directory: str | Path, bundle: Bundle) -> None:
    """Write a bundle into ``directory``, over one that is there, whose files stay until the new ones are whole."""
    metadata = {
        "format": FORMAT,
        "contents": "complete" if bundle.complete else "learnt",
        "tensors": digest(bundle.tensors),
        "blueprint": _sha256(to_text(bundle.blueprint).encode()),
        **({"seen": to_json(bundle.seen)} if bundle.seen else {}),
    }
    contents = {Path(directory) / BLUEPRINT_FILE: to_text(bundle.blueprint).encode()}
    if bundle.interface is not None:
        text = contents[Path(directory) / INTERFACE_FILE] = dump_yaml(bundle.interface).encode()
        metadata["interface"] = _sha256(text)
    files.write_together(
        {**contents, Path(directory) / WEIGHTS_FILE: files.safetensors_bytes(bundle.tensors, metadata)}
    )


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
    written = _sha256(files.read_bytes(Path(directory) / BLUEPRINT_FILE, MAX_BYTES))  # as earlier versions did, too
    if metadata.get("blueprint") not in (_sha256(to_text(blueprint).encode()), written):
        raise UserError(f"{path}: these weights belong to another blueprint than {BLUEPRINT_FILE} beside them")
    interface = _read_interface(Path(directory) / INTERFACE_FILE, metadata.get("interface"))
    seen = from_json(metadata["seen"], str(path)) if "seen" in metadata else ()
    return Bundle(blueprint, tensors, metadata["contents"] == "complete", interface, seen)


def _read_interface(path: Path, expected: str | None) -> dict[str, Any] | None:
    if expected is None:  # of an earlier version; a file that lies there is of another bundle
        return None
    if _sha256(files.read_bytes(path, MAX_BYTES)) != expected:
        raise UserError(f"{path}: damaged, or not what the weights beside it were written with; copy the bundle anew")
    return files.read_yaml(path)


def check_tensors(
    tensors: Mapping[str, Tensor], built: Mapping[str, Tensor], *, is_required: Callable[[str], bool], where: str
) -> None:
    """Refuse tensors that do not fit the network they are to be written into.

    Args:
        tensors: what was read.
        built: state of the network as its blueprint builds it.
        is_required: whether a tensor of that name must be there.
        where: begins every message.

    Raises:
        UserError: a tensor that the network lacks, one of another dtype or shape, a missing one, NaN or an infinity
            where the network as built has none.
    """
    for name, tensor in tensors.items():
        if name not in built:
            raise UserError(f"{where}: its blueprint gives no tensor {name!r}")
        if (tensor.shape, tensor.dtype) != (built[name].shape, built[name].dtype):
            given, expected = (f"{t.dtype} {list(t.shape)}" for t in (tensor, built[name]))
            raise UserError(f"{where}: tensor {name!r} is {given}, its blueprint expects {expected}")
        if not (tensor.isfinite() | (tensor == built[name].to(tensor.device))).all():
            raise UserError(f"{where}: tensor {name!r} holds NaN or infinite values: tune anew, or get another copy")
    for name in built:
        if name not in tensors and is_required(name):
            raise UserError(f"{where}: tensor {name!r} is missing")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
