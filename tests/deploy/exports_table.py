"""What can be exported: the embedded zoo's compositions and clones, and families of timm as tails.

``python -m tests.deploy.exports_table docs/exports.md`` makes the page anew; the ``large`` tests compare it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from deploy.exporting import Parity, export
from deploy.model import Model
from tests.deploy.deploy_stand_ins import chain, cloned, composed, embedded, model_of
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
FAMILIES = (
    "resnet18",
    "convnext_atto",
    "mobilenetv3_small_050",
    "regnety_002",
    "vit_tiny_patch16_224",
    "mixer_s32_224",
    "efficientnet_b0",
    "mobilenetv2_050",
    "swin_tiny_patch4_window7_224",
    "poolformer_s12",
    "ghostnet_100",
    "edgenext_xx_small",
)
SPEC = InputSpec(3, 64, 64, (0.5,) * 3, (0.5,) * 3)


def models(kind: str) -> Iterator[tuple[str, Model]]:
    """The models of a part of the table, by name: ``compositions``, ``clones`` or ``families``."""
    if kind == "compositions":
        names = list(embedded())
        for front, tail in product(names, names):
            yield (
                f"{front} + {tail}" if front != tail else front,
                model_of(composed(front, tail, {name: chain(name) for name in {front, tail}})),
            )
    elif kind == "clones":
        for positions in ((0,), (4,), (0, 0), (2, 5), (0, 3)):
            yield f"resnext_low, clones at {' and '.join(map(str, positions))}", model_of(cloned(*positions))
    else:
        front = ZooEntry("front", "timm", SPEC, model="resnet18")
        for family in FAMILIES:
            zoo = Zoo("families", [front, ZooEntry(family, "timm", SPEC, model=family)])
            chains = {name: load_chain(zoo[name]) for name in zoo}
            yield f"resnet18 + {family}", model_of(composed("front", family, chains), zoo)


def tried(model: Model, kind: str) -> Parity | UserError:
    """What comes of an export, compared in batches of several sizes."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return export(model, Path(directory) / f"model{FORMATS[kind]}", kind)
        except UserError as error:
            return error


def rows(kind: str) -> Iterator[str]:
    """Lines of the table."""
    for name, model in models(kind):
        cells = []
        for form in FORMATS:
            found = tried(model, form)
            cells.append(f"{found.difference:.0e}" if isinstance(found, Parity) else f"no: {found}")
        yield f"| {name} | {' | '.join(cells)} |"
        print(f"{name}: {', '.join(cells)}", file=sys.stderr, flush=True)


_ABOUT = (
    "Every row is a network that was exported, opened by its runtime and compared with the original on real images, in",
    "batches of 1, 2, 5 and 8: the batch is free. The figure is the largest difference of logits as a share of the",
    "largest logit; above 1e-3 a file is refused. Of timm's families random weights were taken, images of 64 x 64, and",
    "a ResNet-18 as the front. Made by `python -m tests.deploy.exports_table docs/exports.md`; tests marked `large`",
    "hold it so.",
)


def page() -> str:
    """The page for the docs."""
    lines = ["# What can be exported", "", *_ABOUT]
    titles = {"compositions": "The embedded zoo", "clones": "Clones", "families": "Families of timm"}
    for kind, title in titles.items():
        lines += ["", f"## {title}", "", "| network | onnxruntime | torch.export |", "|---|---|---|", *rows(kind)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
