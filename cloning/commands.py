"""What ``python -m cloning pack | unpack | repair | list`` does; the rest is in ``surgery`` and ``serving``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cloning import surgery
from cloning.blueprint import CloningBlueprint
from cloning.bundle import Unpacked, from_bundle, interface_of, pack, repair, to_bundle
from cloning.composite import MAGIC, MAGICS, unpack_any
from cloning.measures import size_share
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.surgery import networks_of
from datamodules.images import normalise
from zoo.blueprint import WEIGHTS_FILE, Provenance, read_bundle, write_bundle
from zoo.errors import UserError
from zoo.interface import interface_to_plain
from zoo.storage.files import read_safetensors
from zoo.storage.places import require_directory, require_file
from zoo.storage.records import short_repr

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def pack_run(options: argparse.Namespace) -> str:
    """``pack``: a run's cloned network into one file."""
    _require_free(options.file, options.overwrite)
    directory = next((d for d in (options.run_dir, options.run_dir / "bundle") if (d / WEIGHTS_FILE).exists()), None)
    if directory is None:
        raise UserError(f"{options.run_dir} holds no bundle: give a directory of train.py method=cloning")
    network = from_bundle(read_bundle(directory, CloningBlueprint), networks_of(options.zoo, options.run_dir))
    size = pack(network, options.file, dtype=options.dtype)
    _, share = size_share(network)
    return f"{options.file}: {size:,} bytes; what was learnt is {share:.2%} of the cloned network"


def unpack_file(options: argparse.Namespace) -> str:
    """``unpack``: the network of a file, rebuilt and compared."""
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        raise UserError(f"--tolerance={options.tolerance}: expected a share of the largest logit, 0 or more")
    if options.output:
        _require_bundle_place(options.output, options.overwrite)
    networks = networks_of(options.zoo)
    found = unpack_any(options.file, networks, tolerance=options.tolerance)
    if options.output:
        interface = interface_to_plain(interface_of(found.network, networks.zoo))
        write_bundle(options.output, replace(to_bundle(found.network), interface=interface))
    return _report(found)


def repair_file(options: argparse.Namespace) -> str:
    """``repair``: damaged adapters or head of a file, fitted anew."""
    _require_free(options.repaired, options.overwrite)
    if options.file.is_file() and _begins_with(options.file, MAGIC):
        raise UserError(
            f"{options.file} holds several clones: repair the file of each and put them together again (python -m "
            "cloning add), or have it sent again"
        )
    tensors, _ = read_safetensors(options.samples)
    found = repair(options.file, networks_of(options.zoo), lambda network: _samples(options.samples, tensors, network))
    steps = [Provenance("repaired")] * (bool(found.repaired) or found.was_repaired)
    size = pack(found.network, options.repaired, dtype=found.dtype, provenance=steps)
    fitted = ", ".join(part for part in found.repaired if part != "probe") or "nothing"
    told = "" if found.repaired else " (nothing that was learnt was damaged)"
    if "probe" in found.repaired:
        told = "; the sender's answers, which were damaged, are gone: those in their place are of this network"
    elif found.repaired:
        told = "; from now on the file answers for this network, no longer for the sender's"
    return f"{options.repaired}: {size:,} bytes; fitted anew: {fitted}{told}; {_report(found)}"


def _samples(path: Path, tensors: Mapping[str, Tensor], network: ClonedNetwork) -> Samples:
    """The samples of a file, checked against what the network takes and gives."""
    if set(tensors) != {"images", "labels"}:
        raise UserError(f"{path}: holds {short_repr(sorted(tensors))}; expected images and labels")
    images, labels, spec = tensors["images"], tensors["labels"], network.target.input
    shape = (spec.channels, spec.height, spec.width)
    if not images.is_floating_point() or images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
        given = f"{images.dtype} {list(images.shape)}"
        raise UserError(f"{path}: images are {given}; expected floats (n, {', '.join(map(str, shape))})")
    images = images.float()
    if not ((images >= 0) & (images <= 1)).all():
        raise UserError(f"{path}: images hold values outside of [0, 1], in which they are before mean and std")
    if labels.dtype not in _INTEGERS or tuple(labels.shape) != (len(images),):
        raise UserError(
            f"{path}: labels are {labels.dtype} {list(labels.shape)}; expected ({len(images)},) whole numbers"
        )
    if labels.min() < 0 or labels.max() >= len(network.classes):
        raise UserError(
            f"{path}: labels go from {labels.min()} to {labels.max()}; expected 0 to {len(network.classes) - 1}, "
            f"the numbers of {', '.join(network.classes)}"
        )
    return Samples(normalise(images, spec), labels.long())


def _require_free(path: Path, overwrite: bool) -> None:
    """Refuse to write over a file, unless it is a packed clone and told so, or below one."""
    require_file("", path)
    if path.exists() and not _begins_with(path, *MAGICS):
        raise UserError(f"{path} is there and no packed clone: give another path to write to")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: give another path, or --overwrite")


def _begins_with(path: Path, *magics: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(max(map(len, magics))).startswith(magics)


def _require_bundle_place(path: Path, overwrite: bool) -> None:
    """Refuse to write a bundle into a directory of other things, or over one unless told so; never over a run's."""
    require_directory("--output", path)
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / WEIGHTS_FILE).exists():
        raise UserError(f"--output={path} is there and no bundle: give another directory")
    if (path.resolve().parent / "config.yaml").exists():
        raise UserError(f"--output={path} is the bundle of a run: give another directory")
    if not overwrite:
        raise UserError(f"--output={path} is there already: give another directory, or --overwrite")


def list_files(options: argparse.Namespace) -> tuple[str, int]:
    """``list``: what packed clones hold; the second value is the exit status."""
    told, num_damaged = surgery.listed(options.paths)
    return told, 1 if num_damaged else 0


def _report(found: Unpacked) -> str:
    network = found.network
    grafts = "; ".join(f"{c.source.name} gives {','.join(c.classes)} at {c.position}" for c in network.clones)
    equal = "bit-equal"
    if found.difference:
        equal = f"up to {found.difference:.2g} of the largest apart, and name {found.agreement:.0%} of the images alike"
    if math.isnan(found.difference):
        equal = "not compared, as what the sender found is damaged"
    if found.was_repaired:
        equal += " (the sender is who repaired it: what had been damaged was fitted anew)"
    return f"{network.target.name} with {grafts or 'no clone'}; logits of sender and receiver are {equal}"
