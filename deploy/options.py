"""What several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.arguments import whole
from zoo.errors import UserError
from zoo.storage.places import require_file

if TYPE_CHECKING:
    from deploy.model import Model

at_least_one = whole(1, 2**20)


def add_run(parser: argparse.ArgumentParser, *, device: bool = False) -> None:
    """The result to open, and where its networks are."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory, bundle, blueprint.yaml or clone file")
    parser.add_argument("--zoo", help="where its networks are: a name in conf/zoo, or a YAML file")
    if device:
        parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")


def open_run(options: argparse.Namespace) -> Model:
    """Opens what ``add_run`` took."""
    from deploy.opening import load

    return load(options.run, zoo=options.zoo, device=getattr(options, "device", "cpu"))


def require_free(path: Path, *, overwrite: bool) -> None:
    """Refuses to write over a file, or where no file can be, before anything is computed."""
    require_file("--output", path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another path, or --overwrite")
