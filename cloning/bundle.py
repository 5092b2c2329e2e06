"""Transport: a cloned network as one small file, without the networks it is made of.

    huozi-clone/1 <sha256 of the next line>
    {"dtype": ..., "sections": [[name, size, sha256], ...]}
    blueprint (YAML, deflated) | adapters (safetensors) | head (safetensors) | probe (safetensors) | reading (YAML)

The receiver builds target and sources out of its own zoo, checks their digests, and fills in adapters and head. Every
section has its checksum: a file cut short or with a flipped bit is refused, and what is damaged in adapters or head can
be fitted anew from a few samples. The probe holds the sender's logits on fixed noise: a receiver whose logits are too
far from them refuses the file. How images are read stands there only where it is not as the target's entry says: with
another crop a network answers otherwise, which no logits on noise can tell. A file may come from a stranger: whatever
stands in it is checked and bounded, and a good checksum is no reason to believe it.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cloning.blueprint import CloningBlueprint, build, describe
from cloning.fitting import solve_network_head, with_fitted_adapters
from cloning.framing import TOLERANCES, Packed, framed, unframed
from cloning.frozen import FrozenNetwork
from cloning.network import ClonedNetwork
from cloning.probe import NUM_PROBES, probe_logits
from cloning.samples import Samples
from zoo.blueprint import Bundle, Provenance, check_tensors, parse_blueprint, to_text
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.interface import Interface, Reading, interface_from_plain
from zoo.loading import load_chain
from zoo.parity import parity
from zoo.registry import Zoo
from zoo.storage.files import write_bytes
from zoo.storage.plain import MAX_BYTES, dump_yaml, inflate, one_line, parse_yaml
from zoo.storage.records import from_plain, short_repr, to_plain

MAGIC = b"huozi-clone/1"
LEARNT = ("adapters", "head")
_STORED = "networks/"
SECTIONS = ("blueprint", *LEARNT, "probe")
READING = "reading"
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
Load = Callable[[str], FrozenNetwork]


@dataclass(frozen=True)
class Unpacked:
    """What a receiver has.

    Attributes:
        network: The cloned network.
        difference: Largest difference between its logits on the probe and the sender's, as a share of the largest of
            these; 0 means bit-equal, NaN that the probe was damaged.
        agreement: Share of the probe images that both name alike.
        dtype: In which it travelled; of several parts the least precise.
        repaired: Sections that were damaged and were made anew.
        was_repaired: Somebody did so before it was sent.
    """

    network: ClonedNetwork
    difference: float
    agreement: float
    dtype: str = "float32"
    repaired: tuple[str, ...] = ()
    was_repaired: bool = False


def to_bundle(network: ClonedNetwork, *, complete: bool = False) -> Bundle:
    """The content of a bundle directory: what was learnt.

    Args:
        network: A cloned network.
        complete: Add the weights of target and sources (``networks/NAME/...``), so that loading needs no zoo's. Where
            copies of the networks were tuned (``copies...``) these are all there is, and the bundle is always complete.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if complete and not len(network.copies):
        for frozen in network.networks():
            state = frozen.chain.network.state_dict()
            tensors |= {f"{_STORED}{frozen.name}/{key}": tensor.detach().clone() for key, tensor in state.items()}
    return Bundle(describe(network), tensors, complete=complete or len(network.copies) > 0)


def from_bundle(bundle: Bundle, load_network: Load, *, check_digests: bool = True) -> ClonedNetwork:
    """Rebuilds the network of a bundle, in eval mode; its outputs are bit-equal to those of the one saved.

    Args:
        bundle: Of a directory.
        load_network: Gives a network of the zoo by name; see ``stored_networks``.
        check_digests: Compare their weights with the blueprint's digests.

    Raises:
        UserError: Networks with other digests, tensors that do not fit the blueprint.
    """
    network = build(bundle.blueprint, load_network, check_digests=check_digests)
    network = network.thawed() if _holds_copies(bundle) else network
    if bundle.interface is not None:
        network.reading = interface_from_plain(bundle.interface, "bundle").reading
        network.reading.require_fits(network.target.input, "bundle")
    _fill(network, {n: t for n, t in bundle.tensors.items() if not n.startswith(_STORED)}, "bundle")
    return network.eval()


def from_complete_bundle(bundle: Bundle, zoo: Zoo) -> ClonedNetwork:
    """Rebuilds the network of a complete bundle; of the zoo its architectures are used, and no weights.

    Raises:
        UserError: As ``from_bundle``, or the bundle lacks weights of a network.
    """
    return from_bundle(
        bundle, lambda name: _stored_network(bundle, zoo.entry(name)), check_digests=not _holds_copies(bundle)
    )


def interface_of(network: ClonedNetwork, zoo: Zoo) -> Interface:
    """What whoever uses a cloned network has to know, its networks built as the zoo says."""
    reading, networks = network.reading, {frozen.name: zoo.entry(frozen.name) for frozen in network.networks()}
    return Interface(reading.input, network.classes, reading.background, reading.white_level, networks)


def _stored_network(bundle: Bundle, entry: ZooEntry) -> FrozenNetwork:
    chain = load_chain(replace(entry, weights=None))
    if not _holds_copies(bundle):
        prefix, state = f"{_STORED}{entry.name}/", chain.network.state_dict()
        found = {n.removeprefix(prefix): t for n, t in bundle.tensors.items() if n.startswith(prefix)}
        check_tensors(found, state, is_required=lambda name: True, where=f"bundle: {entry.name}")
        chain.network.load_state_dict(found)
    return FrozenNetwork(chain, entry.classes, entry.input)


def _holds_copies(bundle: Bundle) -> bool:
    return any(name.startswith("copies.") for name in bundle.tensors)


def pack(
    network: ClonedNetwork, path: str | Path, *, dtype: str = "float32", provenance: Sequence[Provenance] = ()
) -> int:
    """Writes the file atomically; returns its size in bytes. As ``packed``, of which it is the file."""
    content = packed(network, str(path), dtype=dtype, provenance=provenance).content
    write_bytes(path, content)
    return len(content)


def packed(
    network: ClonedNetwork, name: str, *, dtype: str = "float32", provenance: Sequence[Provenance] = ()
) -> Packed:
    """The content of a file.

    Args:
        network: Whose adapters and head travel; one with tuned copies (PNC-F) has to travel whole.
        name: Of the file, for messages.
        dtype: ``float32`` (bit-equal at the other end) or ``float16`` (half the size).
        provenance: Of its blueprint.

    Raises:
        UserError: Unknown dtype, tuned copies, tensors or logits that are NaN or infinite.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown; allowed are {', '.join(_DTYPES)}")
    if len(network.copies):
        raise UserError("a network tuned with tuning=full differs from its zoo everywhere: send its bundle directory")
    state = network.state_dict()
    sections = {"blueprint": zlib.compress(to_text(describe(network, provenance)).encode(), 9)}
    for part in LEARNT:
        tensors = {n: t.to(_DTYPES[dtype]).contiguous() for n, t in state.items() if n.startswith(f"{part}.")}
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UserError(f"{name}: not written: tensor {key!r} is NaN, infinite or too large for {dtype}")
        sections[part] = save(tensors)
    logits = probe_logits(network, network.target.input)
    if not logits.isfinite().all():
        raise UserError(f"{name}: not written: the network's logits are NaN or infinite")
    sections["probe"] = save({"logits": logits})
    if network.reading != Reading(network.target.input):
        sections[READING] = zlib.compress(dump_yaml(to_plain(network.reading)).encode(), 9)
    table = [[part, len(content), hashlib.sha256(content).hexdigest()] for part, content in sections.items()]
    return Packed(name, framed(MAGIC, {"dtype": dtype, "sections": table}, b"".join(sections.values())))


def unpack(path: str | Path | Packed, load_network: Load, *, tolerance: float | None = None) -> Unpacked:
    """Rebuilds the network of a file.

    Args:
        path: The file.
        load_network: Gives a network of the zoo by name.
        tolerance: How far its logits may be from the sender's, as a share of the largest; ``None`` takes that of
            ``TOLERANCES``.

    Raises:
        UserError: Not such a file, damaged (with the name of the damaged section), a network the zoo lacks or has with
            other weights, tensors that do not fit, logits that are NaN or further from the sender's.
    """
    header, sections = _read_whole(path)
    network = _built(path, sections, load_network)
    _fill(network, _learnt(path, network, header, sections, LEARNT), str(path))
    return _compared(path, network, header, sections, tolerance)


def packed_reading(path: str | Path | Packed) -> Reading | None:
    """How images are read for the network of a whole file, where that is not as its target's entry says."""
    return _reading(path, _read_whole(path)[1])


def packed_blueprint(path: str | Path | Packed) -> CloningBlueprint:
    """The blueprint of a whole file, without the networks that it names; refusals as in ``unpack``."""
    return _blueprint(path, _read_whole(path)[1])


def repair(
    path: str | Path | Packed, load_network: Load, samples: Callable[[ClonedNetwork], Samples], *, seed: int = 0
) -> Unpacked:
    """Rebuilds the network of a file and fits damaged adapters or a damaged head to a few samples.

    Args:
        path: A file whose blueprint is intact.
        load_network: Gives a network of the zoo by name.
        samples: Gives images preprocessed for the network's target, labelled by its classes.
        seed: Of the folds of the adapters' fit.

    Raises:
        UserError: As ``unpack``, if the damage is elsewhere; no sample of a class that a damaged head is of.
    """
    header, sections, damaged = _read(path)
    for part in {"blueprint", READING}.intersection(damaged):
        raise UserError(f"{path}: damaged in its {part}, which no fit can bring back: have it sent again")
    network = _built(path, sections, load_network)
    few = samples(network)
    if "adapters" in damaged:
        network = with_fitted_adapters(network, few.images, seed=seed)
    intact = [part for part in LEARNT if part not in damaged]
    _fill(network, _learnt(path, network, header, sections, intact), str(path), damaged)
    if "head" in damaged:
        lacking = [name for label, name in enumerate(network.classes) if not (few.labels == label).any()]
        if lacking:
            raise UserError(f"{path}: its head is fitted anew, and no sample is of {', '.join(lacking)}: add some")
        solve_network_head(network, [few])
    state = network.state_dict()  # which has no adapters where every clone is at the image
    made = tuple(part for part in damaged if part == "probe" or any(name.startswith(f"{part}.") for name in state))
    if "probe" in damaged:
        return Unpacked(network, math.nan, math.nan, header.dtype, made)
    return replace(_compared(path, network, header, sections, math.inf if made else None), repaired=made)


@dataclass(frozen=True)
class _Header:
    """The second line of a file: the transported precision, and name, size in bytes and sha256 of every section."""

    dtype: Literal["float32", "float16"]
    sections: tuple[tuple[str, int, str], ...]

    def __post_init__(self) -> None:
        names = tuple(name for name, _, _ in self.sections)
        if names not in (SECTIONS, (*SECTIONS, READING)):
            raise UserError(f"sections: got {short_repr(names)}, expected {', '.join(SECTIONS)}, each once")
        for name, size, checksum in self.sections:
            if size < 0 or not re.fullmatch("[0-9a-f]{64}", checksum):
                raise UserError(f"section {name}: its size or its sha256 is none")


def _read(path: str | Path | Packed) -> tuple[_Header, dict[str, bytes], list[str]]:
    """The header and the sections of a file, and the names of the damaged ones."""
    plain, content = unframed(path, MAGIC)
    header = from_plain(_Header, plain, f"{path}: its header")
    sections, damaged, start = {}, [], 0
    for name, size, checksum in header.sections:
        sections[name] = content[start : start + size]
        if hashlib.sha256(sections[name]).hexdigest() != checksum:
            damaged.append(name)
        start += size
    if len(content) > start and not damaged:
        raise UserError(f"{path}: {len(content) - start} bytes too many: have it sent again")
    return header, sections, damaged


def _read_whole(path: str | Path | Packed) -> tuple[_Header, dict[str, bytes]]:
    """The header and the sections of a file without damage."""
    header, sections, damaged = _read(path)
    if damaged:
        raise UserError(
            f"{path}: damaged in {', '.join(damaged)} (cut short, or a bit has flipped): have it sent again"
            + (", or fit anew with python -m cloning repair" if set(damaged) <= {*LEARNT, "probe"} else "")
        )
    return header, sections


def _blueprint(path: str | Path | Packed, sections: Mapping[str, bytes]) -> CloningBlueprint:
    return parse_blueprint(*_text(path, sections, "blueprint"), CloningBlueprint)


def _was_repaired(path: str | Path | Packed, sections: Mapping[str, bytes]) -> bool:
    return any(step.step == "repaired" for step in _blueprint(path, sections).provenance)


def _reading(path: str | Path | Packed, sections: Mapping[str, bytes]) -> Reading | None:
    if READING not in sections:
        return None
    from datamodules.decoding import Decoding  # with Pillow

    text, where = _text(path, sections, READING)
    reading = from_plain(Reading, parse_yaml(text, where), where)
    try:
        Decoding(reading.background, reading.white_level)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return reading


def _text(path: str | Path | Packed, sections: Mapping[str, bytes], part: str) -> tuple[str, str]:
    """The text of a section, and what messages call it."""
    where = f"{path}: its {part}"
    try:
        return inflate(sections[part], MAX_BYTES, where).decode(), where
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: no text: {one_line(error)}") from error


def _built(path: str | Path | Packed, sections: Mapping[str, bytes], load_network: Load) -> ClonedNetwork:
    """The network before what was learnt is filled in."""
    network, reading = build(_blueprint(path, sections), load_network), _reading(path, sections)
    if reading is not None:
        reading.require_fits(network.target.input, str(path))
        network.reading = reading
    return network


def _learnt(
    path: str | Path | Packed,
    network: ClonedNetwork,
    header: _Header,
    sections: Mapping[str, bytes],
    parts: Sequence[str],
) -> dict[str, Tensor]:
    """The tensors of some sections by their names in the network, in the precision that it has."""
    found, state = {}, network.state_dict()
    for part in parts:
        for name, tensor in _tensors(path, sections, part).items():
            if not name.startswith(f"{part}.") or tensor.dtype != _DTYPES[header.dtype]:
                raise UserError(
                    f"{path}: its section {part} holds {name[:100]!r}, {tensor.dtype}; expected {part}... "
                    f"of {header.dtype}"
                )
            found[name] = tensor.to(state[name].dtype) if name in state else tensor
    return found


def _tensors(path: str | Path | Packed, sections: Mapping[str, bytes], part: str) -> dict[str, Tensor]:
    try:
        return load(sections[part])
    except SafetensorError as error:
        raise UserError(f"{path}: its section {part} cannot be read: {one_line(error)}") from error


@torch.no_grad()
def _fill(network: ClonedNetwork, tensors: Mapping[str, Tensor], where: str, damaged: Sequence[str] = ()) -> None:
    state = network.state_dict()
    check_tensors(tensors, state, is_required=lambda name: not name.startswith(tuple(damaged)), where=where)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _compared(
    path: str | Path | Packed,
    network: ClonedNetwork,
    header: _Header,
    sections: Mapping[str, bytes],
    tolerance: float | None,
) -> Unpacked:
    """The network, unless its logits are further from the sender's than allowed."""
    tolerance = TOLERANCES[header.dtype] if tolerance is None else tolerance
    found = probe_logits(network, network.target.input)
    difference, agreement = parity(_sent_logits(path, network, sections), found)
    if not difference <= tolerance:  # NaN is not
        raise UserError(
            f"{path}: logits of sender and receiver are up to {difference:.3g} of the largest apart, more than "
            f"{tolerance:g}: have it packed anew, or allow more with --tolerance"
        )
    return Unpacked(network, difference, agreement, header.dtype, was_repaired=_was_repaired(path, sections))


def _sent_logits(path: str | Path | Packed, network: ClonedNetwork, sections: Mapping[str, bytes]) -> Tensor:
    tensors = _tensors(path, sections, "probe")
    expected = (NUM_PROBES, len(network.classes))
    logits = tensors.get("logits")
    if len(tensors) != 1 or logits is None or tuple(logits.shape) != expected or logits.dtype != torch.float32:
        raise UserError(f"{path}: its section probe holds no logits of {expected[0]} images and {expected[1]} classes")
    if not logits.isfinite().all():
        raise UserError(f"{path}: its section probe holds logits that are NaN or infinite: have it packed anew")
    return logits
