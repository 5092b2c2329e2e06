"""``python -m cloning pack | unpack | repair | add | remove | list | serve``: cloned networks as files that travel."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zoo import threads

if __name__ == "__main__":
    threads.prepare()  # before torch is loaded

import torch
from torch import Tensor

from cloning import surgery
from cloning.blueprint import CloningBlueprint
from cloning.bundle import MAGIC, TOLERANCES, Unpacked, from_bundle, pack, repair, to_bundle
from cloning.composite import unpack_any
from cloning.frozen import FrozenNetworks
from cloning.measures import size_share
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.serving import command as serving
from datamodules.images import normalise
from zoo.blueprint import WEIGHTS_FILE, read_bundle, write_bundle
from zoo.errors import UserError
from zoo.registry import read_zoo
from zoo.storage.files import read_safetensors
from zoo.storage.records import short_repr


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m cloning", description="Cloned networks as files that travel.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="a run's cloned network into one file")
    packing.add_argument("run_dir", type=Path, help="a directory of train.py, or a bundle")
    packing.add_argument("file", type=Path)
    packing.add_argument("--dtype", default="float32", help="float32 (bit-equal) or float16 (half the size)")
    unpacking = commands.add_parser("unpack", help="rebuild the network of a file out of the receiver's zoo")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("--output", type=Path, help="write it as a bundle, for train.py blueprint=PATH")
    allowed = ", ".join(f"{share:g} of {dtype}" for dtype, share in TOLERANCES.items())
    unpacking.add_argument(
        "--tolerance",
        type=float,
        help=f"how far logits may be from the sender's, as a share of the largest; by default {allowed}",
    )
    repairing = commands.add_parser("repair", help="fit the damaged adapters or head of a file anew")
    repairing.add_argument("file", type=Path)
    repairing.add_argument("repaired", type=Path, help="the file to write")
    repairing.add_argument(
        "--samples",
        type=Path,
        required=True,
        help="safetensors file: images (n, C, H, W) in [0, 1] of the target's size, labels (n,) by the clone's classes",
    )
    for command in (packing, unpacking, repairing, *surgery.add_arguments(commands), serving.add_arguments(commands)):
        command.add_argument("--zoo", default="embedded", help="name in conf/zoo, or path of a YAML file")
    options = parser.parse_args(arguments)
    try:
        told = _COMMANDS[options.command](options)
        told, status = told if isinstance(told, tuple) else (told, 0)
        print(told)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return status


def _pack(options: argparse.Namespace) -> str:
    _require_free(options.file)
    directory = next((d for d in (options.run_dir, options.run_dir / "bundle") if (d / WEIGHTS_FILE).exists()), None)
    if directory is None:
        raise UserError(f"{options.run_dir} holds no bundle: give a directory of train.py method=cloning")
    network = from_bundle(read_bundle(directory, CloningBlueprint), _networks(options.zoo))
    size = pack(network, options.file, dtype=options.dtype)
    _, share = size_share(network)
    return f"{options.file}: {size:,} bytes; what was learnt is {share:.2%} of the cloned network"


def _unpack(options: argparse.Namespace) -> str:
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        raise UserError(f"--tolerance={options.tolerance}: expected a share of the largest logit, 0 or more")
    if options.output:
        _require_bundle_place(options.output)
    found = unpack_any(options.file, _networks(options.zoo), tolerance=options.tolerance)
    if options.output:
        write_bundle(options.output, to_bundle(found.network))
    return _report(found)


def _repair(options: argparse.Namespace) -> str:
    _require_free(options.repaired)
    tensors, _ = read_safetensors(options.samples)
    found = repair(options.file, _networks(options.zoo), lambda network: _samples(options.samples, tensors, network))
    size = pack(found.network, options.repaired)
    fitted = ", ".join(found.repaired) or "nothing, all was intact"
    return f"{options.repaired}: {size:,} bytes; fitted anew: {fitted}; {_report(found)}"


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


def _require_free(path: Path) -> None:
    """Refuse to write over a file that is no packed clone, or below one."""
    if (above := next((parent for parent in path.parents if parent.exists()), path)) and not above.is_dir():
        raise UserError(f"{path}: {above} is a file, not a directory: give another path to write to")
    if path.is_dir() or (path.exists() and not _begins_with(path, MAGIC)):
        raise UserError(f"{path} is there and no packed clone: give another path to write to")


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _require_bundle_place(path: Path) -> None:
    """Refuse to write a bundle into a directory of other things."""
    if path.exists() and not (path.is_dir() and ((path / WEIGHTS_FILE).exists() or not any(path.iterdir()))):
        raise UserError(f"--output={path} is there and no bundle: give another directory")


def _list(options: argparse.Namespace) -> tuple[str, int]:
    told, num_damaged = surgery.listed(options.paths)
    return told, 1 if num_damaged else 0


def _report(found: Unpacked) -> str:
    network = found.network
    grafts = "; ".join(f"{c.source.name} gives {','.join(c.classes)} at {c.position}" for c in network.clones)
    equal = "bit-equal" if found.difference == 0 else f"up to {found.difference:.2g} apart"
    if math.isnan(found.difference):
        equal = "not compared, as what the sender found is damaged"
    return f"{network.target.name} with {grafts}; logits of sender and receiver are {equal}"


def _networks(zoo: str) -> FrozenNetworks:
    return FrozenNetworks(read_zoo(zoo))


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_COMMANDS: Mapping[str, Callable[[argparse.Namespace], str | tuple[str, int]]] = {
    "pack": _pack,
    "unpack": _unpack,
    "repair": _repair,
    "add": surgery.add,
    "remove": surgery.remove,
    "list": _list,
    "serve": serving.run,
}

if __name__ == "__main__":
    sys.exit(main())
