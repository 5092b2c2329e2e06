"""``python -m cloning pack | unpack | repair``: cloned networks as single files that travel."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cloning.blueprint import CloningBlueprint
from cloning.bundle import Unpacked, from_bundle, pack, repair, to_bundle, unpack
from cloning.frozen import FrozenNetworks
from cloning.measures import size_share
from cloning.samples import Samples
from datamodules.images import normalise
from zoo.blueprint import WEIGHTS_FILE, read_bundle, write_bundle
from zoo.errors import UserError
from zoo.registry import read_zoo
from zoo.storage.files import read_safetensors

ZOOS = Path(__file__).resolve().parents[1] / "conf" / "zoo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m cloning", description="Cloned networks as files that travel.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="a run's cloned network into one file")
    packing.add_argument("run_dir", type=Path, help="a directory of train.py, or a bundle")
    packing.add_argument("file", type=Path)
    packing.add_argument("--dtype", default="float32", help="float32 (bit-equal) or float16 (half the size)")
    unpacking = commands.add_parser("unpack", help="rebuild the network of a file out of the receiver's zoo")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("--output", type=Path, help="write it as a bundle, for train.py blueprint=PATH")
    repairing = commands.add_parser("repair", help="fit the damaged adapters or head of a file anew")
    repairing.add_argument("file", type=Path)
    repairing.add_argument("repaired", type=Path, help="the file to write")
    repairing.add_argument(
        "--samples",
        type=Path,
        required=True,
        help="safetensors file: images (n, C, H, W) in [0, 1] of the target's size, labels (n,) by the clone's classes",
    )
    for command in (packing, unpacking, repairing):
        command.add_argument("--zoo", default="embedded", help="name in conf/zoo, or path of a YAML file")
    options = parser.parse_args(arguments)
    try:
        print(_COMMANDS[options.command](options))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _pack(options: argparse.Namespace) -> str:
    directory = next((d for d in (options.run_dir, options.run_dir / "bundle") if (d / WEIGHTS_FILE).exists()), None)
    if directory is None:
        raise UserError(f"{options.run_dir} holds no bundle: give a directory of train.py method=cloning")
    network = from_bundle(read_bundle(directory, CloningBlueprint), _networks(options.zoo))
    size = pack(network, options.file, dtype=options.dtype)
    _, share = size_share(network)
    return f"{options.file}: {size:,} bytes; what was learnt is {share:.2%} of the cloned network"


def _unpack(options: argparse.Namespace) -> str:
    found = unpack(options.file, _networks(options.zoo))
    if options.output:
        write_bundle(options.output, to_bundle(found.network))
    return _report(found)


def _repair(options: argparse.Namespace) -> str:
    networks = _networks(options.zoo)
    tensors, _ = read_safetensors(options.samples)
    if set(tensors) != {"images", "labels"}:
        raise UserError(f"{options.samples}: holds {', '.join(sorted(tensors))}; expected images and labels")
    images, labels = tensors["images"].float(), tensors["labels"].long()
    found = repair(options.file, networks, lambda spec: Samples(normalise(images, spec), labels))
    pack(found.network, options.repaired)
    return f"fitted anew: {', '.join(found.repaired) or 'nothing, all was intact'}; {_report(found)}"


def _report(found: Unpacked) -> str:
    network = found.network
    grafts = "; ".join(f"{c.source.name} gives {','.join(c.classes)} at {c.position}" for c in network.clones)
    equal = "bit-equal" if found.difference == 0 else f"up to {found.difference:.2g} apart"
    return f"{network.target.name} with {grafts}; logits of sender and receiver are {equal}"


def _networks(zoo: str) -> FrozenNetworks:
    path = Path(zoo) if Path(zoo).suffix else ZOOS / f"{zoo}.yaml"
    return FrozenNetworks(read_zoo(path))


_COMMANDS = {"pack": _pack, "unpack": _unpack, "repair": _repair}

if __name__ == "__main__":
    sys.exit(main())
