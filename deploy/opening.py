"""From a path to a network that can be used: run directory, bundle, recipe or clone file, of any method."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cloning.blueprint import CloningBlueprint
from cloning.blueprint import build as build_cloned
from cloning.bundle import from_bundle, from_complete_bundle, interface_of
from cloning.composite import MAGICS, read_composite, unpack_any
from cloning.frozen import FrozenNetworks
from deploy.model import Model, Origin
from reassembly.network import assemble, rebuild
from tuning.network import TunableNetwork
from zoo.blueprint import (
    BLUEPRINT_FILE,
    INTERFACE_FILE,
    WEIGHTS_FILE,
    Bundle,
    ReassemblyBlueprint,
    read_blueprint,
    read_bundle,
)
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.interface import Interface, interface_from_plain, require_known_builder
from zoo.loading import load_chain
from zoo.registry import ZOOS, Zoo, parse_zoo_of_run, read_zoo
from zoo.storage.files import read_json, read_yaml
from zoo.storage.plain import one_line
from zoo.storage.records import neighbours
from zoo.weights import require_file

log = logging.getLogger(__name__)

BUNDLE, CONFIG, RESULT = "bundle", "config.yaml", "result.json"
KINDS = (ReassemblyBlueprint, CloningBlueprint)
GIVE = "give a directory of train.py or search.py, a bundle, a blueprint.yaml or a clone file"


@dataclass(frozen=True)
class Found:
    """What lies at a path.

    Attributes:
        kind: ``bundle``, ``recipe`` or ``clone``.
        path: Of the bundle's directory, or of the file.
        run_dir: The run that it is of; None for what stands alone.
    """

    kind: str
    path: Path
    run_dir: Path | None = None


def load(path: str | Path, *, zoo: Zoo | str | Path | Mapping[str, Any] | None = None, device: str = "cpu") -> Model:
    """Opens whatever the framework wrote: a run directory, a bundle, a recipe or a clone file, of any method.

    No code of others is run: networks are built by the architectures of timm, torchvision and the embedded zoo, or by
    the zoo that is given. A recipe has no learnt weights: it can be described, and is refused where it would predict.

    Args:
        path: Of the directory or file.
        zoo: Where its networks are: the name of a zoo of this project, a YAML file, or a zoo. Without one they are
            built as the bundle or the run's own configuration says; a complete bundle holds all their weights.
        device: Of the network.

    Raises:
        UserError: One line: nothing of ours, damaged, networks that cannot be had (by name and digest) or have other
            weights, no such device.
    """
    found, chosen = locate(Path(path)), usable_device(device)
    given = zoo if zoo is None or isinstance(zoo, Zoo) else read_zoo(zoo)
    bundle = interface = None
    if found.kind == "bundle":
        bundle = read_bundle(found.path, *KINDS)
        blueprint = bundle.blueprint
        if bundle.interface is not None:
            interface = interface_from_plain(bundle.interface, str(found.path / INTERFACE_FILE))
    else:
        blueprint = (
            read_composite(found.path).blueprint if found.kind == "clone" else read_blueprint(found.path, *KINDS)
        )
    is_complete = bundle is not None and bundle.complete
    used = given or known_zoo(blueprint, interface, found, complete=is_complete)
    for name in blueprint.networks:
        used.entry(name)
    if found.kind == "clone":
        network: TunableNetwork = (cloned := unpack_any(found.path, FrozenNetworks(used)).network)
        interface = interface_of(cloned, used)
    else:
        network = _untrained(blueprint, used) if bundle is None else rebuilt(bundle, used)
    if interface is None:
        interface = derived_interface(blueprint, used)
        log.info("%s holds no input specification: that of its network %s is taken", path, _first(blueprint))
    classes = network.class_names or interface.classes
    if len(interface.classes) != network.head.out_features or tuple(classes) != interface.classes:
        raise UserError(f"{found.path / INTERFACE_FILE}: its classes are not those of the blueprint beside it")
    origin = Origin(found.kind, Path(path), found.path, found.run_dir, blueprint, bundle, used)
    return Model(network, interface, origin).to(chosen)


def locate(path: Path) -> Found:
    """What lies at a path, without reading it.

    Raises:
        UserError: Nothing, or nothing of ours; with what is there.
    """
    try:
        if not path.exists():
            raise UserError(f"{path} does not exist: {GIVE}")
        return _locate_directory(path) if path.is_dir() else _locate_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {GIVE}") from error


def _locate_directory(path: Path) -> Found:
    for folder in (path / BUNDLE, path):
        if (folder / WEIGHTS_FILE).is_file():
            return Found("bundle", folder, path if folder != path else _run_of(path))
    if (path / BLUEPRINT_FILE).is_file():
        return Found("recipe", path / BLUEPRINT_FILE, path if (path / CONFIG).is_file() else None)
    jobs = sorted(child.name for child in path.iterdir() if (child / CONFIG).is_file() or (child / BUNDLE).is_dir())
    if (path / CONFIG).is_file():
        if (status := _status(path)) == "completed":
            raise UserError(
                f"{path} is a completed run without {BUNDLE}/{WEIGHTS_FILE} and {BLUEPRINT_FILE}: put the files back, "
                f"run its command again (output_dir={path}), or {GIVE}"
            )
        told = f" ({status})" if status else ""
        raise UserError(f"{path} is a run that is not completed{told}: let it end (train.py resume={path}), or {GIVE}")
    if jobs:
        told = ", ".join(jobs[:5]) + (", ..." if len(jobs) > 5 else "")
        raise UserError(f"{path} holds {len(jobs)} runs ({told}): give one of them, e.g. {path / jobs[0]}")
    inside = ", ".join(sorted(child.name for child in path.iterdir())[:4]) or "nothing"
    raise UserError(f"{path} holds no result (it holds {inside}): {GIVE}")


def _locate_file(path: Path) -> Found:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(MAGICS):
        return Found("clone", path)
    if path.name in (WEIGHTS_FILE, INTERFACE_FILE) and (path.parent / WEIGHTS_FILE).is_file():
        return _locate_directory(path.parent)
    if path.suffix in (".yaml", ".yml"):
        return Found("recipe", path, path.parent if (path.parent / CONFIG).is_file() else None)
    foreign = {
        ".onnx": "an ONNX file, which onnxruntime opens",
        ".pt2": "a file of torch.export, which torch.export.load opens",
        ".ckpt": "a checkpoint of training, which train.py resume=RUN_DIR goes on from",
        ".safetensors": "weights without a recipe",
        ".pth": "a checkpoint without a recipe; name it in a zoo (weights.file)",
        ".pt": "a checkpoint without a recipe; name it in a zoo (weights.file)",
    }
    raise UserError(f"{path} is {foreign.get(path.suffix.lower(), 'nothing that this project wrote')}: {GIVE}")


def _run_of(bundle: Path) -> Path | None:
    parent = bundle.resolve().parent
    return bundle.parent if bundle.name == BUNDLE and (parent / CONFIG).is_file() else None


def _status(path: Path) -> str | None:
    try:
        result = read_json(path / RESULT)
    except UserError:
        return None
    return result.get("status") if isinstance(result, dict) else None


def known_zoo(blueprint: Any, interface: Interface | None, found: Found, *, complete: bool) -> Zoo:
    """The networks of a blueprint as its bundle, its run's configuration or a zoo of this project knows them.

    A builder that the file alone names is not called: the user's own zoo of that name has to have it, too.

    Raises:
        UserError: Nothing is known of the networks, a builder of others, weights that are not there.
    """
    if interface is not None and interface.networks is not None:
        known, where = interface.networks, str(found.path / INTERFACE_FILE)
    elif found.run_dir is not None and (found.run_dir / CONFIG).is_file():
        config = found.run_dir / CONFIG
        known, where = parse_zoo_of_run(config), str(config)  # nothing is built before it is known to be ours
    elif (own := _own_zoo(blueprint)) is not None:
        return Zoo(own.name, _with_weights(blueprint, [own[name] for name in blueprint.networks], found))
    else:
        needed = ", ".join(f"{name} {digest}" for name, digest in blueprint.networks.items())
        raise UserError(f"{found.path} does not say where its networks are ({needed}): give their zoo ({ZOO})")
    entries = []
    for name in blueprint.networks:
        if name not in known:
            told = f"{name!r} ({blueprint.networks[name]}) is missing; {neighbours(name, known)}"
            raise UserError(f"{where}: network {told}: give the zoo that has it ({ZOO})")
        entries.append(_buildable(known[name], blueprint, where))
    return Zoo(where, entries if complete else _with_weights(blueprint, entries, found))


def _buildable(entry: ZooEntry, blueprint: Any, where: str) -> ZooEntry:
    """The entry, or the user's own one of that name and builder where the file's calls what is not known."""
    try:
        require_known_builder(entry, where)
    except UserError:
        own = _own_zoo(blueprint)
        if own is None or own[entry.name].source != entry.source or _converter(own[entry.name]) != _converter(entry):
            raise
        return own[entry.name]
    return entry


def _converter(entry: ZooEntry) -> str | None:
    return entry.weights.convert if entry.weights is not None else None


def derived_interface(blueprint: Any, zoo: Zoo) -> Interface:
    """What the first network takes and what the blueprint gives, for results that do not tell it themselves."""
    if isinstance(blueprint, CloningBlueprint):
        classes = blueprint.classes
    else:
        classes = blueprint.head.classes or tuple(str(number) for number in range(blueprint.head.size))
    return Interface(
        zoo.entry(_first(blueprint)).input, classes, networks={n: zoo.entry(n) for n in blueprint.networks}
    )


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: No such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r}: torch finds none on this machine ({one_line(error)}): give cpu") from error
    return device


def _first(blueprint: Any) -> str:
    return blueprint.target if isinstance(blueprint, CloningBlueprint) else blueprint.blocks[0].network


def _own_zoo(blueprint: Any) -> Zoo | None:
    """The zoo of this project that the blueprint names as its origin, or else the first that has all its networks."""
    provenance = blueprint.provenance
    records = provenance if isinstance(provenance, (list, tuple)) else [provenance]
    named = [getattr(record, "zoo", None) for record in records]
    files = [ZOOS / f"{name}.yaml" for name in named if isinstance(name, str) and name.isidentifier()]
    for path in dict.fromkeys((*files, ZOOS / "embedded.yaml", *sorted(ZOOS.glob("*.yaml")))):
        networks = read_yaml(path).get("networks") if path.is_file() else None
        if isinstance(networks, Mapping) and set(blueprint.networks) <= set(networks):
            return read_zoo(path)
    return None


def _with_weights(blueprint: Any, entries: Sequence[ZooEntry], found: Found) -> Sequence[ZooEntry]:
    """The entries, whose files of weights have to be there; all that are missing are told in one line."""
    missing = []
    for entry in entries:
        try:
            if entry.weights is not None and entry.weights.file is not None:
                require_file(entry.weights)
        except UserError as error:
            missing.append(f"{entry.name} ({blueprint.networks[entry.name]}): {error}")
    if missing:
        raise UserError(
            f"{found.path} holds what was learnt, and needs the weights of {'; '.join(missing)}; or give the zoo "
            f"that has them ({ZOO}), or have the bundle made complete where they are (python -m deploy complete)"
        )
    return entries


def rebuilt(bundle: Bundle, zoo: Zoo) -> TunableNetwork:
    """The network of a bundle, in eval mode, built with a zoo; of which a complete one takes no weights."""
    if isinstance(bundle.blueprint, ReassemblyBlueprint):
        return rebuild(bundle, zoo)
    return from_complete_bundle(bundle, zoo) if bundle.complete else from_bundle(bundle, FrozenNetworks(zoo))


def _untrained(blueprint: Any, zoo: Zoo) -> TunableNetwork:
    if isinstance(blueprint, CloningBlueprint):
        return build_cloned(blueprint, FrozenNetworks(zoo)).eval()
    return assemble(blueprint, {name: load_chain(zoo.entry(name)) for name in blueprint.networks})


ZOO = "--zoo NAME_OR_FILE, or zoo=... in Python"
