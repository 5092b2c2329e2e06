"""``python -m cloning pack | unpack | repair | add | remove | list | serve``: cloned networks as files that travel."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoo import threads
from zoo.arguments import Parser

if __name__ == "__main__":
    threads.prepare()  # before torch is loaded

from cloning.framing import TOLERANCES
from cloning.serving import command as serving
from zoo.errors import UserError, tell

_COMMANDS: Mapping[str, str] = {
    "pack": "cloning.commands.pack_run",
    "unpack": "cloning.commands.unpack_file",
    "repair": "cloning.commands.repair_file",
    "list": "cloning.commands.list_files",
    "add": "cloning.surgery.add",
    "remove": "cloning.surgery.remove",
    "serve": "cloning.serving.command.run",
}
"""What runs, imported when it is asked for: with torch it takes seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 for a mistake of the user."""
    parser = Parser(prog="python -m cloning", description="Cloned networks as files that travel.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="a run's cloned network into one file")
    packing.add_argument("run_dir", type=Path, help="a directory of train.py, or a bundle")
    packing.add_argument("file", type=Path)
    packing.add_argument(
        "--dtype", choices=TOLERANCES, default="float32", help="float32 (bit-equal) or float16 (half the size)"
    )
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
    for command in (packing, unpacking, repairing):
        command.add_argument("--overwrite", action="store_true", help="replace a clone or bundle that is there")
    for command in (packing, unpacking, repairing, *_add_surgery(commands), serving.add_arguments(commands)):
        command.add_argument(
            "--zoo", help="name in conf/zoo, or path of a YAML file; by default that of the run, of a file embedded"
        )
    options = parser.parse_args(arguments)
    try:
        module, name = _COMMANDS[options.command].rsplit(".", 1)
        told = getattr(importlib.import_module(module), name)(options)
        told, status = told if isinstance(told, tuple) else (told, 0)
        print(told)
    except (UserError, OSError) as error:
        return tell(error)
    return status


def _add_surgery(commands: argparse._SubParsersAction) -> Iterable[argparse.ArgumentParser]:
    """Declares the commands; gives those that need a zoo."""
    adding = commands.add_parser("add", help="put the clones of a file onto a target, or onto a network with others")
    adding.add_argument("base", metavar="TARGET_OR_CLONE", help="a network of the zoo, a packed clone, or a run")
    adding.add_argument("clone", metavar="CLONE", type=Path, help="a packed clone on the same target")
    removing = commands.add_parser("remove", help="take the clones of a source off again")
    removing.add_argument("base", metavar="CLONE", help="a packed clone, or a run")
    removing.add_argument("clone", metavar="SOURCE", help="the network that gave, or a packed clone of it")
    for command in (adding, removing):
        command.add_argument("--output", type=Path, help="the new file; by default TARGET+SOURCE+...hz, here")
    listing = commands.add_parser("list", help="what packed clones hold, without any network")
    listing.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="packed clones, or folders of them")
    return adding, removing


if __name__ == "__main__":
    sys.exit(main())
