"""``python -m cloning add | remove | list``: clones put onto a target and taken off again, in any order.

No network is changed, and what is written is a new file. That this is so is not only said: the digests of all networks
are taken before and after, and what was added is taken off again and compared with what was there before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cloning.blueprint import CloningBlueprint, num_set
from cloning.bundle import from_bundle, packed
from cloning.composite import Composite, bare, read_composite
from cloning.frozen import FrozenNetworks
from cloning.measures import require_restored
from cloning.probe import probe_logits
from zoo.blueprint import WEIGHTS_FILE, read_bundle
from zoo.errors import UserError
from zoo.interface import require_known_builder
from zoo.registry import ZOOS, parse_zoo_of_run, read_zoo
from zoo.storage.files import write_bytes
from zoo.storage.places import require_file
from zoo.storage.records import neighbours

SUFFIX = ".hz"


def add(options: argparse.Namespace) -> str:
    """Adds, checks that all of it can be undone, and writes."""
    _require_new(options.output)
    networks = networks_of(options.zoo, Path(options.base))
    if str(options.clone) in networks.zoo and not Path(options.clone).exists():
        raise UserError(
            f"{options.clone} is a network of the zoo, no packed clone: type add {options.clone} {options.base}"
        )
    if Path(options.clone).is_dir():
        raise UserError(
            f"{options.clone} is a directory: type python -m cloning pack {options.clone} FILE.hz, add FILE.hz"
        )
    base, clone = open_base(options.base, networks), read_composite(options.clone)
    return _written(base.with_clone(clone), base, clone.sources, networks, options)


def remove(options: argparse.Namespace) -> str:
    """Takes off, and writes what is left."""
    _require_new(options.output)
    networks = networks_of(options.zoo, Path(options.base))
    base = open_base(options.base, networks)
    sources: Sequence[str] = (options.clone,)
    if Path(options.clone).is_file() and options.clone not in base.sources:
        given, held = read_composite(Path(options.clone)), {part.content for part in base.parts}
        if not held:
            raise UserError(f"{options.base} has no clones: there is nothing of {options.clone} to take off")
        if any(part.content not in held for part in given.parts):
            places = [f"{clone.network} (position {clone.position})" for clone in base.blueprint.clones]
            raise UserError(
                f"{options.clone} is not in {options.base} as it is, which holds clones of "
                f"{', '.join(places)}: give the name of one of these to take it off"
            )
        sources = given.sources
    rest = base
    for source in sources:
        rest = rest.without(source, networks)
    return _written(rest, base, (), networks, options)


def listed(paths: Sequence[Path]) -> tuple[str, int]:
    """What packed clones hold, and how many of them cannot be read.

    Raises:
        UserError: The only path there is cannot be read, or is a folder without a packed clone.
    """
    lines, num_damaged = [], 0
    for path in paths:
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        for file in files or [path]:
            try:
                if not files:
                    raise UserError(f"{path} holds no packed clone (*{SUFFIX})")
                lines += _lines(file)
            except UserError as error:
                if len(files or [path]) == len(paths) == 1:
                    raise
                num_damaged += 1
                lines.append(f"refused: {error}")
    return "\n".join(lines), num_damaged


def networks_of(zoo: str | None, run_dir: Path | None = None) -> FrozenNetworks:
    """The networks of a zoo by name or file; of none, of the one that a run was made with, and else the embedded ones.

    Of a run whose zoo is no longer in conf/zoo it is what its configuration says, without the networks that are built
    by code that this file alone names.
    """
    configs = [place / "config.yaml" for place in (run_dir, run_dir.parent)] if run_dir and run_dir.is_dir() else []
    config = next(filter(Path.is_file, configs), None)
    if zoo is not None or config is None:
        return FrozenNetworks(read_zoo(zoo or "embedded"))
    found, foreign = parse_zoo_of_run(config), {}  # nothing is built before it is known to be ours
    if found.name.isidentifier() and (ZOOS / f"{found.name}.yaml").is_file():
        return FrozenNetworks(read_zoo(found.name))
    for entry in found.values():
        try:
            require_known_builder(entry, str(config))
        except UserError as error:
            foreign[entry.name] = str(error)
    return FrozenNetworks(found.without(foreign))


def open_base(name: str, networks: FrozenNetworks) -> Composite:
    """A target of the zoo by name, or what lies at a path: a packed clone, a run of method=cloning, a bundle.

    Raises:
        UserError: None of these, or damaged.
    """
    path = Path(name)
    if path.is_dir():
        for directory in (path / "bundle", path):
            if (directory / WEIGHTS_FILE).is_file():
                network = from_bundle(read_bundle(directory, CloningBlueprint), networks)
                return read_composite(packed(network, str(path)))
        raise UserError(f"{path} holds no bundle: give a directory of train.py method=cloning, or a packed clone")
    if path.is_file():
        return read_composite(path)
    if name not in networks.zoo:
        told = neighbours(name, networks.zoo)
        raise UserError(f"{name} is no file and no network of the zoo {networks.zoo.name!r}: {told}")
    return bare(networks(name))


@torch.no_grad()
def _written(
    result: Composite, base: Composite, added: Sequence[str], networks: FrozenNetworks, options: argparse.Namespace
) -> str:
    """Writes the result after the proofs, and tells them."""
    output = options.output or Path("+".join([result.target, *result.sources]) + SUFFIX)
    _require_new(output)
    names = {**base.blueprint.networks, **result.blueprint.networks}
    used = [networks(name) for name in names]
    before = {network.name: network.digest() for network in used}
    logits = _answers(result, networks)
    if not logits.isfinite().all():
        raise UserError(f"{output}: not written: the network's logits are NaN or infinite")
    told = []
    if added:
        rest = result
        for source in added:
            rest = rest.without(source, networks)
        same = [_answers(composite, networks) for composite in (rest, base)]
        if rest.to_bytes() != base.to_bytes() or not torch.equal(*same):
            raise UserError(f"{output}: not written: without what was added it is not {options.base} again")
        told.append(f"without {', '.join(added)} it is {options.base} again: the same bytes, the same logits")
        if base.parts:
            told.append(
                f"{', '.join(base.sources)} and {', '.join(added)} were made apart, so that their classes were never "
                f"weighed against each other; one run solves them together: task.sources=[{','.join(result.sources)}]"
            )
    if not result.parts and result.classes == networks(result.target).classes:
        target = networks(result.target)
        if not torch.equal(logits, probe_logits(target.logits, target.input)):
            raise UserError(f"{output}: not written: its logits are not those of {target.name}")
        told.append(f"its logits are {target.name}'s own, bit for bit")
    digests = require_restored(used, before)
    content = result.to_bytes()
    write_bytes(output, content)
    told += [f"{name} {digest} is as it was" for name, digest in digests.items()]
    head = f"{output}: {len(content):,} bytes: {result.blueprint.composition}; classes {', '.join(result.classes)}"
    return "\n".join([head, *told])


def _answers(composite: Composite, networks: FrozenNetworks) -> Tensor:
    network = composite.network(networks)
    return probe_logits(network, network.target.input)


def _lines(file: Path) -> list[str]:
    composite = read_composite(file)
    content = composite.to_bytes()
    lines = [f"{file}: {len(content):,} bytes, on {composite.target} {composite.digest[:19]}"]
    lines += [f"  classes {', '.join(composite.classes)}"]
    for clone in composite.blueprint.clones:
        place = "the image" if clone.position == 0 else f"position {clone.position}"
        digest = composite.blueprint.networks[clone.network][:19]
        has = f"{num_set(clone.gates):,} gates open"
        has += f", {num_set(clone.features):,} features" if clone.features else ""
        lines.append(f"  {clone.network} {digest} gives {', '.join(clone.classes)} at {place}, {has}")
    return lines


def _require_new(path: Path | None) -> None:
    """Refuses a path where anything is: an earlier good file is never written over."""
    if path is None:
        return
    if path.exists():
        raise UserError(f"{path} is there already: give another path (--output)")
    require_file("--output", path)
