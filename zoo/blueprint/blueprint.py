"""Blueprints: the plain-text description of a composed network, as readable as a recipe.

A blueprint names blocks of networks, adapters and a head, and pins every network by its digest; it holds no weights.
Each method has its own frozen dataclass with a ``method`` field; ``read_blueprint`` takes those that may occur.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from zoo.errors import UserError
from zoo.storage import files, records
from zoo.storage.plain import dump_yaml, parse_yaml

FORMAT = "huozi-blueprint/1"
MAX_CLASSES = 100_000
"""Of a head; more are refused before anything is allocated for them."""

MAX_BLOCKS = 1000

Blueprint = TypeVar("Blueprint")


@dataclass(frozen=True)
class BlockSpec:
    """Nodes ``nodes[0] .. nodes[1] - 1`` of a network's chain."""

    network: str
    nodes: tuple[int, int]

    def __post_init__(self) -> None:
        start, stop = self.nodes
        if not 0 <= start < stop:
            raise UserError(f"nodes {list(self.nodes)} of {self.network!r}: expected [start, stop], 0 <= start < stop")

    def continues(self, previous: BlockSpec) -> bool:
        """Whether this block begins where ``previous`` ends, in the same network: then nothing is to be adapted."""
        return self.network == previous.network and self.nodes[0] == previous.nodes[1]


@dataclass(frozen=True)
class AdapterSpec:
    """The stitch between two blocks.

    Attributes:
        kind: ``linear`` (a convolution), ``paper`` (norm, 1x1 convolution, LeakyReLU) or ``none`` (only where a block
            directly continues the one before it in the same network).
        kernel_size: 1, 3, or ``auto``: the better of the two by cross-validation over images. A signal without a grid
            has no neighbours: there 3 means 1.
        initialisation: ``closed_form`` (ridge regression onto what the block received at home), ``random``, or, between
            blocks that continue each other, ``identity``: x plus a convolution of x whose weights begin at zero.
    """

    kind: Literal["linear", "paper", "none"] = "linear"
    kernel_size: Literal[1, 3, "auto"] = "auto"
    initialisation: Literal["closed_form", "random", "identity"] = "closed_form"

    def __post_init__(self) -> None:
        if self.kind == "paper" and self.kernel_size == 3:
            raise UserError("kernel_size 3 does not exist for kind paper: use 1, or kind linear")
        if self.kernel_size == "auto" and self.initialisation != "closed_form":
            raise UserError(
                f"kernel_size auto needs initialisation closed_form: give kernel_size 1 or 3 for {self.initialisation}"
            )
        if self.kind != "linear" and self.initialisation == "identity":
            raise UserError(f"initialisation identity does not exist for kind {self.kind}: use kind linear")


@dataclass(frozen=True)
class HeadSpec:
    """The classifier: its classes by names, or only their number, and what it reads.

    Attributes:
        inputs: ``last``: the features behind the last block; ``all_cuts``: those and the mean features behind every
            other block, one after the other; ``auto``: tuning decides, until then it is ``last``.
    """

    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    inputs: Literal["last", "all_cuts", "auto"] = "last"

    def __post_init__(self) -> None:
        if (self.classes is None) == (self.num_classes is None):
            raise UserError("head: give either classes (their names) or num_classes")
        if not 1 <= self.size <= MAX_CLASSES:
            raise UserError(f"head: got {self.size} classes, expected at least 1 and at most {MAX_CLASSES:,}")
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise UserError("head: the names of the classes must differ")

    @property
    def size(self) -> int:
        """Number of classes."""
        return self.num_classes if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Provenance:
    """One step of how a network came about; for the reader, without effect on the network.

    Attributes:
        step: ``composed`` (a search or a choice among whole networks), ``tuned``, or ``repaired`` (what was damaged in
            a packed clone was fitted anew).
        data: Name of the data set that it was done on.
        data_digest: Of that data set's images, classes and splits.
        seed: Of the step, its splits included.
        parent: Digest of the blueprint or bundle that it began with; None where it began with the zoo.
        zoo: Where a composition's networks are from.
        proxy: What ranked it.
        score: By that proxy.
        mode: Of tuning: ``full``, ``freeze`` or ``probe``.
        num_epochs: Of tuning.
        val_accuracy: What tuning reached on the validation split.
    """

    step: Literal["composed", "tuned", "repaired"] = "composed"
    data: str | None = None
    data_digest: str | None = None
    seed: int | None = None
    parent: str | None = None
    zoo: str | None = None
    proxy: str | None = None
    score: float | None = None
    mode: str | None = None
    num_epochs: int | None = None
    val_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name in ("score", "val_accuracy"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UserError(f"provenance.{name}: got {value}, expected a number")


@dataclass(frozen=True)
class ReassemblyBlueprint:
    """Blocks in series with an adapter between each two, and a head.

    The first block begins at node 0 (it brings its own stem). ``networks`` gives the digest of every network used,
    ``provenance`` the steps by which it came about, the first one first.
    """

    blocks: tuple[BlockSpec, ...]
    adapters: tuple[AdapterSpec, ...]
    head: HeadSpec
    networks: Mapping[str, str]
    provenance: tuple[Provenance, ...] = ()
    method: Literal["reassembly"] = "reassembly"

    def __post_init__(self) -> None:
        if not 1 <= len(self.blocks) <= MAX_BLOCKS:
            raise UserError(f"blocks: got {len(self.blocks)}, expected at least one and at most {MAX_BLOCKS:,}")
        if len(self.adapters) != len(self.blocks) - 1:
            expected = len(self.blocks) - 1
            raise UserError(f"adapters: got {len(self.adapters)}, expected {expected}, one between each two blocks")
        if self.blocks[0].nodes[0] != 0:
            raise UserError(f"blocks[0].nodes: begins at {self.blocks[0].nodes[0]}, but the first block begins at 0")
        for k, (before, adapter, block) in enumerate(zip(self.blocks, self.adapters, self.blocks[1:], strict=False)):
            if block.nodes[0] == 0:
                raise UserError(f"blocks[{k + 1}].nodes: only the first block may begin at node 0 (the stem)")
            if adapter.kind == "none" and not block.continues(before):
                raise UserError(
                    f"adapters[{k}].kind: none, but {block.network!r} from node {block.nodes[0]} does not continue "
                    f"{before.network!r} up to node {before.nodes[1]}: use linear or paper"
                )
            if adapter.initialisation == "identity" and not block.continues(before):
                raise UserError(
                    f"adapters[{k}].initialisation: identity, but {block.network!r} from node {block.nodes[0]} does "
                    f"not continue {before.network!r} up to node {before.nodes[1]}: use closed_form or random"
                )
        check_networks({block.network for block in self.blocks}, self.networks)

    @property
    def composition(self) -> str:
        """For the reader, as ``composition`` gives it; blocks with nothing between them are told as one."""
        told = [self.blocks[0]]
        for adapter, block in zip(self.adapters, self.blocks[1:], strict=True):
            if adapter.kind == "none":
                block = BlockSpec(block.network, (told.pop().nodes[0], block.nodes[1]))
            told.append(block)
        return composition(told)


def composition(blocks: Sequence[BlockSpec]) -> str:
    """Blocks in one line, ``resnet18[0:5] + vit_tiny[7:13]``: nodes from the first up to, without, the second."""
    return " + ".join(f"{block.network}[{block.nodes[0]}:{block.nodes[1]}]" for block in blocks)


def check_networks(used: set[str], networks: Mapping[str, str]) -> None:
    """Refuse a table of digests that lacks a used network, lists an unused one, or holds something else."""
    for name in sorted(used - set(networks)):
        raise UserError(f"networks: the digest of {name!r} is missing; {records.neighbours(name, networks)}")
    for name in sorted(set(networks) - used):
        raise UserError(f"networks: {name!r} is used by no block; used: {', '.join(sorted(used))}")
    for name, digest in networks.items():
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise UserError(
                f"networks.{name}: got {records.short_repr(digest)}, expected sha256: and 64 hexadecimal digits"
            )


def check_digest(name: str, expected: str, found: str) -> None:
    """Refuse a network whose weights are not those that the blueprint was made with."""
    if expected != found:
        raise UserError(
            f"network {name!r}: the blueprint was made with {_short(expected)}, the zoo has {_short(found)}; "
            "give the zoo that holds the former, or make the blueprint anew"
        )


def to_text(blueprint: Any) -> str:
    """The YAML text of any method's blueprint."""
    plain = records.to_plain(blueprint)
    if not plain.get("provenance"):
        plain.pop("provenance", None)
    if isinstance(head := plain.get("head"), dict) and head.get("inputs") == "last":
        head.pop("inputs")  # as earlier versions wrote it
    return dump_yaml({"format": FORMAT, "method": plain.pop("method"), **plain})


def text_digest(blueprint: Any) -> str:
    """``"sha256:<hex>"`` of the YAML text of any method's blueprint."""
    return f"sha256:{hashlib.sha256(to_text(blueprint).encode()).hexdigest()}"


def write_blueprint(path: str | Path, blueprint: Any) -> None:
    """Write the YAML file, atomically."""
    files.write_text(path, to_text(blueprint))


def read_blueprint(path: str | Path, *kinds: type[Blueprint]) -> Blueprint:
    """Read a blueprint file strictly.

    Args:
        path: the YAML file.
        kinds: the dataclasses that may occur, told apart by their ``method``; ``ReassemblyBlueprint`` if none is given.

    Raises:
        UserError: one line with the place, for an unsupported format or method, an unknown or missing field, a value of
            another type, or parts that do not fit each other.
    """
    return _from_yaml(files.read_yaml(path), str(path), kinds)


def parse_blueprint(text: str, where: str, *kinds: type[Blueprint]) -> Blueprint:
    """Read the text of a blueprint as strictly as ``read_blueprint`` does a file; ``where`` begins every message."""
    return _from_yaml(parse_yaml(text, where), where, kinds)


def _from_yaml(plain: Any, where: str, kinds: Sequence[type[Blueprint]]) -> Blueprint:
    if not isinstance(plain, dict):
        raise UserError(f"{where}: expected a mapping of fields at the top, got {type(plain).__name__}")
    version = plain.pop("format", None)
    if version != FORMAT:
        raise UserError(f"{where}: format {records.short_repr(version)} is not supported; expected {FORMAT}")
    by_method = {_method(kind): kind for kind in kinds or (ReassemblyBlueprint,)}
    method = plain.get("method")
    if method is None:
        raise UserError(f"{where}: field method is missing: write method: {' or method: '.join(by_method)}")
    if not isinstance(method, str) or method not in by_method:
        own = f", or type method={method}" if method in ("reassembly", "cloning") else ""
        raise UserError(
            f"{where}: made by method={_word(method)}, expected method={' or '.join(by_method)}: "
            f"give another blueprint{own}"
        )
    if isinstance(plain.get("provenance"), dict):
        plain["provenance"] = [plain["provenance"]]  # of earlier versions: one step, the composition
    return records.from_plain(by_method[method], plain, where)


def _method(kind: type) -> str:
    return next(field.default for field in dataclasses.fields(kind) if field.name == "method")


def _word(value: Any) -> str:
    return value[:60] if isinstance(value, str) else records.short_repr(value)


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12] + "..."
