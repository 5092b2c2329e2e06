"""``python -m deploy predict RUN PATH...``: classes and probabilities of images in files, folders and globs."""

from __future__ import annotations

import argparse
import csv
import glob
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.options import add_run, at_least_one, open_run, require_free
from zoo.errors import UserError
from zoo.progress import progress

if TYPE_CHECKING:
    from deploy.model import Model

SUFFIXES = (".csv", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser, device=True)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders (with all below them), or globs")
    parser.add_argument("--output", type=Path, help=".csv or .json file; by default a CSV table is printed")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--top-k", type=at_least_one, default=5, help="classes that are told of each image (5)")
    parser.add_argument("--batch-size", type=at_least_one, default=32, help="images that run at once (32)")


def run(options: argparse.Namespace) -> int:
    """Predicts; returns 1 where images were skipped, since they cannot be read."""
    if options.output is not None:
        if options.output.suffix.lower() not in SUFFIXES:
            raise UserError(f"--output={options.output}: expected a name that ends in {' or '.join(SUFFIXES)}")
        require_free(options.output, overwrite=options.overwrite)
    files = image_paths(options.paths)
    model = open_run(options)
    model.require_weights()
    rows: list[tuple[str, list[tuple[str, float]]]] = []
    faults: list[str] = []
    with progress("predicting", len(files)) as advance:
        for batch, broken in _batches(model, files, options.batch_size):
            names = [name for name, _ in batch]
            if batch:
                rows += zip(names, _top(model, [pixels for _, pixels in batch], options.top_k), strict=True)
            for fault in broken:
                print(f"skipped: {fault}", file=sys.stderr)
            faults += broken
            for _ in range(len(batch) + len(broken)):
                advance()
    if not rows:
        raise UserError(f"none of the {len(files)} files could be read as an image: nothing is written")
    num_told = min(options.top_k, len(model.classes))
    _write(options.output, rows, num_told)
    where = f" -> {options.output}" if options.output else ""
    print(f"{len(rows)} images predicted, {len(faults)} of {len(files)} skipped{where}", file=sys.stderr)
    return 1 if faults else 0


def image_paths(words: Sequence[str]) -> list[Path]:
    """The files that words name: themselves, the images below a folder, or what a glob finds; each once.

    Raises:
        UserError: Nothing there, a folder or a glob without an image.
    """
    from datamodules.listing import image_files

    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise UserError(f"{path} holds no image that Pillow reads")
            found += files
        elif path.exists():
            found.append(path)
        else:
            matched = sorted(map(Path, glob.glob(word, recursive=True)))
            files = [file for match in matched for file in (image_files(match) if match.is_dir() else [match])]
            if not files:
                raise UserError(f"{word} does not exist{', and matches nothing' if glob.has_magic(word) else ''}")
            found += files
    return list(dict.fromkeys(found))


def _batches(model: Model, files: Sequence[Path], size: int) -> Iterator[tuple[list[tuple[str, Any]], list[str]]]:
    """Preprocessed images (1, C, H, W) by name, ``size`` at a time, and what is told of those that cannot be read."""
    for start in range(0, len(files), size):
        batch, broken = [], []
        for file in files[start : start + size]:
            try:
                batch.append((str(file), model.preprocess(file)))
            except UserError as error:
                broken.append(str(error))
        yield batch, broken


def _top(model: Model, images: list[Any], k: int) -> list[list[tuple[str, float]]]:
    import torch

    from deploy.model import Predictions

    probabilities = model.probabilities(torch.cat(images))
    return Predictions(tuple(map(str, range(len(images)))), model.classes, probabilities).top(k)


def _write(output: Path | None, rows: Sequence[tuple[str, list[tuple[str, float]]]], num_told: int) -> None:
    from zoo.storage.files import write_csv, write_json

    if output is not None and output.suffix.lower() == ".json":
        told = [
            {"image": name, "predictions": [{"class": label, "probability": round(p, 6)} for label, p in top]}
            for name, top in rows
        ]
        write_json(output, told)
        return
    ranks = range(1, num_told + 1)
    columns = ["image", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))]
    table = [[name, *(cell for label, p in top for cell in (label, f"{p:.6f}"))] for name, top in rows]
    if output is not None:
        write_csv(output, columns, table)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *table])
    sys.stdout.write(text.getvalue())
    sys.stdout.flush()
