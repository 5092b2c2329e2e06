"""Several clones on one target as one file: their own files one after the other, so that each can be taken off again.

    huozi-clones/1 <sha256 of the next line>
    {"target": ..., "digest": ..., "classes": [...], "parts": [[size, sha256], ...]}
    packed clone | packed clone | ...

Nothing of a part is changed, so that what is left when one goes is what was there before, byte for byte. F_c of the
whole is not stored; it follows from the parts, whichever came first: the logit of a class of the target is the mean of
those that the parts give it, that of a cloned class its own part's. With one part alone it is that part's head, bit for
bit. So all parts have to know the same classes of the target: one that a part does not know has never been weighed
against what that part gives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from cloning import bundle
from cloning.blueprint import CloningBlueprint
from cloning.bundle import Unpacked, packed, packed_blueprint, packed_reading, unpack
from cloning.framing import Packed, contents, framed, unframed
from cloning.frozen import FrozenNetwork
from cloning.network import ClonedNetwork, told_missing
from zoo.blueprint import check_digest
from zoo.errors import UserError
from zoo.interface import Reading
from zoo.storage.records import from_plain

MAGIC = b"huozi-clones/1"
MAGICS = (bundle.MAGIC, MAGIC)
"""What a file begins with that ``read_composite`` reads."""

MAX_HEADER_BYTES = 2**20
MAX_PARTS = 1000

Load = Callable[[str], FrozenNetwork]


@dataclass(frozen=True)
class _Header:
    """The second line of a file of several clones."""

    target: str
    digest: str
    classes: tuple[str, ...]
    parts: tuple[tuple[int, str], ...]

    def __post_init__(self) -> None:
        if len(self.parts) > MAX_PARTS:
            raise UserError(f"parts: got {len(self.parts)}, expected at most {MAX_PARTS:,}")
        for size, checksum in self.parts:
            if size < 1 or not re.fullmatch("[0-9a-f]{64}", checksum):
                raise UserError("parts: the size or the sha256 of one is none")


@dataclass(frozen=True)
class Composite:
    """A target with any number of packed clones.

    Attributes:
        target: Name of the network that receives.
        digest: Of its weights.
        classes: Names of the outputs, in order.
        parts: Packed clones of that target.
    """

    target: str
    digest: str
    classes: tuple[str, ...]
    parts: tuple[Packed, ...]

    @cached_property
    def blueprints(self) -> tuple[CloningBlueprint, ...]:
        """Of the parts."""
        return tuple(map(packed_blueprint, self.parts))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the networks that give, each once."""
        return tuple(dict.fromkeys(clone.network for part in self.blueprints for clone in part.clones))

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the target's own classes, in the order of the outputs."""
        given = {name for part in self.blueprints for name in part.cloned_classes}
        return tuple(name for name in self.classes if name not in given)

    @cached_property
    def readings(self) -> tuple[Reading | None, ...]:
        """How images are read for each part; None: as the target's entry says."""
        return tuple(map(packed_reading, self.parts))

    @property
    def is_single(self) -> bool:
        """Whether one part is all there is."""
        return len(self.parts) == 1 and self.blueprints[0].classes == self.classes

    @property
    def blueprint(self) -> CloningBlueprint:
        """Of the whole; its gates and positions are those of the parts."""
        if self.is_single:
            return self.blueprints[0]
        networks = {self.target: self.digest}
        for part in self.blueprints:
            networks |= part.networks
        clones = tuple(clone for part in self.blueprints for clone in part.clones)
        cuts = tuple(sorted({cut for part in self.blueprints for cut in part.head_cuts}))
        return CloningBlueprint(self.classes, self.target, clones, networks, cuts)

    def to_bytes(self) -> bytes:
        """The content of a file; of one part that is all there is, that part's own."""
        if self.is_single:
            return self.parts[0].content
        table = [[len(part.content), hashlib.sha256(part.content).hexdigest()] for part in self.parts]
        header = {"target": self.target, "digest": self.digest, "classes": self.classes, "parts": table}
        return framed(MAGIC, header, b"".join(part.content for part in self.parts))

    def with_clone(self, other: Composite) -> Composite:
        """The target with the other's clones as well; its classes come last.

        Raises:
            UserError: Clones of another target or other weights, for images read otherwise, of a source that gives
                already, a class twice, other classes of the target than here.
        """
        where = other.parts[0].name if other.parts else "the clone"
        if not other.parts:
            raise UserError(f"{other.target} alone has no clone to add: give a packed clone")
        if other.target != self.target:
            raise UserError(f"{where} is a clone on {other.target!r}, and {self.target!r} is the target here")
        if other.digest != self.digest:
            raise UserError(f"{where} was made on other weights of {self.target!r} ({other.digest}, not {self.digest})")
        if self.parts and self.readings[0] != other.readings[0]:
            raise UserError(
                f"{where} reads images otherwise than what is there ({_told(other.readings[0])}, not "
                f"{_told(self.readings[0])}): clone one of them again with the same dataset.crop_fraction, background "
                "and white_level"
            )
        for name in other.sources:
            if name in self.sources:
                raise UserError(f"{where}: a clone of {name!r} is there already: take it off first (remove)")
        gained = [name for part in other.blueprints for name in part.cloned_classes]
        for name in gained:
            if name in self.classes:
                raise UserError(f"{where} gives class {name!r}, which is there already; give each class to one network")
        here, there = self.kept, other.kept
        if missing := [name for name in (*there, *here) if (name in here) != (name in there)]:
            raise UserError(
                f"{where} knows the classes {', '.join(there)} of {self.target!r}, and {', '.join(here)} are here: "
                f"{', '.join(missing)} would not have been weighed against all others; clone the one that lacks them "
                f"again with task.classes=[{','.join(dict.fromkeys((*here, *there)))}]"
            )
        return replace(self, classes=(*self.classes, *gained), parts=(*self.parts, *other.parts))

    def without(self, source: str, load: Load) -> Composite:
        """The target without the clones of a source.

        Args:
            source: Name of the network that gave.
            load: Gives a network of the zoo by name; a part of several sources is packed anew.

        Raises:
            UserError: No clone comes from that source, or no class would be left.
        """
        if source not in self.sources:
            raise UserError(told_missing(source, self.target, self.sources))
        parts, lost = [], set()
        for part, blueprint in zip(self.parts, self.blueprints, strict=True):
            own = [clone for clone in blueprint.clones if clone.network == source]
            lost |= {name for clone in own for name in clone.classes}
            if 0 < len(own) < len(blueprint.clones):
                found = unpack(part, load)
                left = found.network.without(source)
                part = packed(left, part.name, dtype=found.dtype, provenance=blueprint.provenance)
            if len(own) < len(blueprint.clones):
                parts.append(part)
        classes = tuple(name for name in self.classes if name not in lost)
        if not classes:
            raise UserError(f"without {source!r} no class would be left")
        return replace(self, classes=classes, parts=tuple(parts))

    def unpacked(self, load: Load, tolerance: float | None = None) -> Unpacked:
        """The cloned network, and how far it is from the senders'.

        Args:
            load: Gives a network of the zoo by name.
            tolerance: As in ``unpack``, for every part.

        Raises:
            UserError: As ``unpack``; a class that neither the target nor a part has.
        """
        target = load(self.target)
        check_digest(self.target, self.digest, target.digest())
        found = [unpack(part, load, tolerance=tolerance) for part in self.parts]
        network = combine(target, self.classes, [part.network for part in found])
        difference = max((part.difference for part in found), default=0.0)
        agreement = min((part.agreement for part in found), default=1.0)
        dtype = min((part.dtype for part in found), default="float32")
        return Unpacked(network, difference, agreement, dtype, was_repaired=any(part.was_repaired for part in found))

    def network(self, load: Load) -> ClonedNetwork:
        """The cloned network alone."""
        return self.unpacked(load).network


def read_composite(path: str | Path | Packed) -> Composite:
    """Reads a file of one packed clone or of several, without any network.

    Raises:
        UserError: One line: neither, or damaged, with the name of what is damaged.
    """
    file = contents(path)
    if not file.content.startswith(MAGIC):
        blueprint = packed_blueprint(file)
        return Composite(blueprint.target, blueprint.networks[blueprint.target], blueprint.classes, (file,))
    plain, payload = unframed(file, MAGIC, MAX_HEADER_BYTES)
    header = from_plain(_Header, plain, f"{file}: its header")
    parts, start = [], 0
    for number, (size, checksum) in enumerate(header.parts, start=1):
        name, content = f"{file}: its part {number}", payload[start : start + size]
        if hashlib.sha256(content).hexdigest() != checksum:
            raise UserError(f"{name}: damaged (cut short, or a bit has flipped): have it sent again")
        parts.append(Packed(name, content))
        start += size
    if len(payload) > start:
        raise UserError(f"{file}: {len(payload) - start} bytes too many: have it sent again")
    alone = Composite(header.target, header.digest, header.classes, ())
    clones = [Composite(b.target, b.networks[b.target], b.classes, (p,)) for p, b in _described(parts)]
    kept = set(header.classes) - {name for _, b in _described(parts) for name in b.cloned_classes}
    found = replace(alone, classes=tuple(name for name in header.classes if name in kept))
    for clone in clones:
        found = found.with_clone(clone)
    if sorted(found.classes) != sorted(header.classes):
        raise UserError(f"{file}: its header names other classes than its parts give")
    return replace(found, classes=header.classes)


def _told(reading: Reading | None) -> str:
    if reading is None:
        return "as the target's entry says"
    told = {"crop_pct": reading.input.crop_pct, "background": reading.background, "white_level": reading.white_level}
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


def _described(parts: Sequence[Packed]) -> list[tuple[Packed, CloningBlueprint]]:
    return [(part, packed_blueprint(part)) for part in parts]


def bare(target: FrozenNetwork) -> Composite:
    """A target without clones."""
    return Composite(target.name, target.digest(), target.classes, ())


def unpack_any(path: str | Path | Packed, load: Load, *, tolerance: float | None = None) -> Unpacked:
    """Rebuilds the network of a file of one packed clone or of several; difference and agreement are the worst part's.

    Raises:
        UserError: As ``unpack`` and ``read_composite``.
    """
    return read_composite(path).unpacked(load, tolerance)


@torch.no_grad()
def combine(target: FrozenNetwork, classes: Sequence[str], parts: Sequence[ClonedNetwork]) -> ClonedNetwork:
    """One network of the clones of several on the same target; its head as above.

    Args:
        target: The network that receives.
        classes: Names of the outputs, in order.
        parts: Cloned networks on it, which read images alike.
    """
    clones = [clone for part in parts for clone in part.clones]
    adapters = [adapter for part in parts for adapter in part.adapters]
    cuts = sorted({cut for part in parts for cut in part.head_cuts})
    whole = ClonedNetwork(target, classes, clones, adapters, cuts)
    whole.reading = parts[0].reading if parts else whole.reading
    if len(parts) == 1 and parts[0].classes == whole.classes:
        whole.head.load_state_dict(parts[0].head.state_dict())
        return whole
    if not parts:
        return whole
    weight, bias = (torch.zeros_like(value, dtype=torch.float64) for value in (whole.head.weight, whole.head.bias))
    columns, kept = whole.columns(), set(whole.kept_classes)
    for part in sorted(parts, key=lambda part: [clone.source.name for clone in part.clones]):
        rows = [whole.classes.index(name) for name in part.classes]
        share = torch.tensor([1 / len(parts) if name in kept else 1.0 for name in part.classes]).double()
        bias[rows] += share * part.head.bias.double()
        for owner, place in part.columns().items():
            weight[rows, columns[owner]] += share[:, None] * part.head.weight.double()[:, place]
    whole.set_head(weight, bias)
    return whole
