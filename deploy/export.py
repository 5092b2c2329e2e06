"""``python -m deploy export RUN --format onnx``: one file that runs without this project."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from deploy.options import add_run, open_run, require_free
from zoo.errors import UserError

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser)
    parser.add_argument(
        "--format", default="onnx", choices=SUFFIXES, help="onnx (the default), torch_export, safetensors"
    )
    parser.add_argument("--output", type=Path, help="the file; by default model.onnx, model.pt2 or model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument(
        "--preprocessing", action="store_true", help="mean and std inside: it takes uint8 images of the network's size"
    )
    parser.add_argument("--images", nargs="+", type=Path, default=[], help="real images to compare on; else the run's")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="how far logits may differ, as a share of the largest (0.001)"
    )


def run(options: argparse.Namespace) -> int:
    """Writes the file, once the runtime that it is for gives the same of real images."""
    output = options.output or Path("model").with_suffix(SUFFIXES[options.format])
    if output.suffix.lower() != SUFFIXES[options.format]:
        raise UserError(f"--output={output}: expected a name that ends in {SUFFIXES[options.format]}")
    if not 0 <= options.tolerance < math.inf:
        raise UserError(f"--tolerance={options.tolerance:g}: expected a share of the largest logit, 0 or more")
    if options.preprocessing and options.format == "safetensors":
        raise UserError("--preprocessing does not go with --format safetensors, which holds weights alone")
    require_free(output, overwrite=options.overwrite)
    model = open_run(options)
    from deploy.evaluate import data_of
    from deploy.exporting import export
    from deploy.predict import image_paths

    data = None
    if not options.images and model.origin.run_dir is not None:
        try:
            data = data_of(model, [])
        except UserError as error:
            print(f"the images of its run cannot be had ({error}): photographs are compared", file=sys.stderr)
    found = export(
        model,
        output,
        options.format,
        preprocessing=options.preprocessing,
        images=image_paths([str(path) for path in options.images]) if options.images else (),
        data=data,
        tolerance=options.tolerance,
    )
    print(f"{output}: {output.stat().st_size:,} bytes; {found}")
    return 0
