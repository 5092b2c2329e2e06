"""``python -m deploy describe RUN``: what a result is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from deploy.options import add_run, open_run

if TYPE_CHECKING:
    from deploy.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the description."""
    print(open_run(options).describe())
    return 0


def description(model: Model) -> str:
    """See ``Model.describe``."""
    spec, origin = model.input, model.origin
    costs = model.costs
    classes = ", ".join(model.classes[:12]) + (", ..." if len(model.classes) > 12 else "")
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (spec.mean, spec.std))
    crop = "" if spec.crop_pct == 1 and spec.crop_mode == "center" else f", {spec.crop_mode} crop {spec.crop_pct:.4g}"
    what = {"recipe": "recipe without learnt weights", "clone": "packed clone"}.get(origin.kind)
    if what is None:
        what = "complete bundle" if origin.bundle is not None and origin.bundle.complete else "bundle"
    lines = [
        f"{origin.blueprint.composition} ({origin.blueprint.method}, {what})",
        f"classes     {len(model.classes)}: {classes}",
        f"input       {spec.channels} x {spec.height} x {spec.width}, {spec.interpolation}{crop}",
        f"            mean {mean}, std {std}",
        f"parameters  {costs.num_params:,}",
        f"MACs        {costs.macs:,}",
        *(f"network     {name}  {digest}" for name, digest in origin.blueprint.networks.items()),
    ]
    return "\n".join(lines)
