"""``python -m deploy complete RUN``: a bundle that needs neither the zoo's file, nor checkpoints, nor the network."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deploy.options import add_run, open_run
from zoo.errors import UserError
from zoo.storage.places import require_directory

if TYPE_CHECKING:
    from deploy.model import Model
    from zoo.blueprint import Bundle

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser)
    parser.add_argument(
        "--output", type=Path, help="directory of the complete bundle; by default RUN's own is replaced"
    )


def run(options: argparse.Namespace) -> int:
    """Writes the bundle, once it gives the same logits bit for bit without the zoo."""
    from zoo.blueprint import WEIGHTS_FILE, write_bundle

    if options.output is not None:
        require_directory("--output", options.output)
    model = open_run(options)
    model.require_weights()
    target = options.output or (model.origin.files if model.origin.kind == "bundle" else None)
    if target is None:
        raise UserError(f"{options.run} is a single file: say with --output in which directory the bundle is to lie")
    if target.exists() and not (target.is_dir() and ((target / WEIGHTS_FILE).is_file() or not any(target.iterdir()))):
        raise UserError(f"--output={target} is there and no bundle: give another directory")
    bundle = completed(model)
    write_bundle(target, bundle)
    num_bytes = (target / WEIGHTS_FILE).stat().st_size
    print(f"{target}: {num_bytes:,} bytes, complete; without the zoo its logits are the same, bit for bit")
    return 0


def completed(model: Model) -> Bundle:
    """The complete bundle of a model.

    Raises:
        UserError: A recipe without weights; a network that is built by a function of others, which no bundle carries;
            other logits when it is opened without the zoo.
    """
    from cloning.blueprint import CloningBlueprint
    from cloning.bundle import to_bundle as cloned_bundle
    from deploy.opening import rebuilt
    from reassembly.network import to_bundle as assembled_bundle
    from zoo.interface import interface_from_plain, interface_to_plain, require_known_builder
    from zoo.registry import Zoo

    model.require_weights()
    blueprint = model.origin.blueprint
    if isinstance(blueprint, CloningBlueprint):
        bundle = cloned_bundle(model.network, complete=True)
    else:
        bundle = assembled_bundle(model.network, {}, complete=True)
    entries = {name: model.origin.zoo.entry(name) for name in blueprint.networks}
    interface = replace(model.interface, networks=entries)
    seen = () if model.origin.bundle is None else model.origin.bundle.seen
    bundle = replace(bundle, blueprint=blueprint, interface=interface_to_plain(interface), seen=seen)
    found = interface_from_plain(bundle.interface, "interface.yaml").networks
    for entry in found.values():
        require_known_builder(entry, str(model.origin.files))
    again = rebuilt(bundle, Zoo("of the bundle", found.values()))
    spec = model.input
    images = torch.randn(2, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.equal(again(images), model.network.cpu()(images)):
            raise UserError(f"{model.origin.files} gives other logits when it is opened without the zoo: not written")
    return bundle
