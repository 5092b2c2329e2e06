"""Locality: ``python -m studies.locality``. Is a module alike its source on its own class alone? Class by class.

Source: Partial Network Cloning (arXiv 2303.10597), the figure of conditional similarities. Of a network three matrices:

- *source*: cosine between its mean logits on the images of class i and on those of class j;
- *module*: Sim of the module that is localised for class i, on the images of class j;
- *random*: the same of a module with as many gates open in every layer and as many features, at random.

Sim is the mean cosine of centred logits, module against source (``cloning.measures``). Modules are found on the
training images, Sim is measured on those of the test split; nothing is chosen by it.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cloning.clone import Clone
from cloning.feature_selection import select_features
from cloning.frozen import FrozenNetwork, FrozenNetworks
from cloning.localise import localise
from cloning.measures import conditional_similarities, random_like
from cloning.samples import BATCH_SIZE
from cloning.settings import LocalisationSettings
from datamodules import ImageDataModule
from figures.style import INK, MAP, colour_bar, grid_of_panels, save, written
from launch.datasets import open_dataset
from launch.errors import report as tell
from launch.schema import keys
from zoo import threads
from zoo.arguments import Parser, positive, run, whole
from zoo.chain.batches import run_in_batches
from zoo.errors import UserError
from zoo.limits import shown
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import write_json, write_text
from zoo.storage.places import require_files, with_end

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
MAX_IMAGES = 2048
KINDS = ("source", "module", "random")
CLAIM = "modules are alike their source on the classes they were localised for, and on these only"

Matrix = list[list[float]]


def class_matrices(
    network: FrozenNetwork,
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    settings: LocalisationSettings,
    *,
    seed: int,
) -> dict[str, Matrix]:
    """The three matrices of a network, rows i and columns j by class.

    Args:
        network: The source.
        train: Images (n, C, H, W) by class, preprocessed for it; of at least two of its classes.
        test: Likewise, of the same classes.
        settings: How modules are found, with a share to keep.
        seed: Of localisation and control.
    """
    names = list(train)
    means = []
    for name in names:
        logits = run_in_batches(network.logits, test[name], batch_size=BATCH_SIZE).double()
        means.append((logits - logits.mean(1, keepdim=True)).mean(0))
    units = torch.stack([mean / mean.norm().clamp_min(1e-12) for mean in means])
    found: dict[str, Matrix] = {"source": (units @ units.T).tolist(), "module": [], "random": []}
    for name in names:
        others = torch.cat([train[other] for other in names if other != name])
        *_, located = localise(
            network.chain,
            network.sites,
            train[name],
            torch.full((len(train[name]),), network.classes.index(name)),
            settings,
            black=network.black,
            seed=seed,
            others=others,
            macs=network.gate_macs,
        )
        module = Clone(network, (name,), located.gates, 0)
        if settings.selects_features:
            module = select_features(module, train, settings.contrast)
        for kind, clone in (("module", module), ("random", random_like(module, seed=seed))):
            found[kind].append(list(conditional_similarities(clone, test).values()))
    return found


def images_by_class(data: ImageDataModule, split: str, network: FrozenNetwork) -> dict[str, Tensor]:
    """Images of a split, preprocessed for a network, by those of its classes that the data has."""
    images, labels = data.images(split, network.input, limit=MAX_IMAGES)
    names = [name for name in network.classes if name in data.class_names]
    found = {name: images[labels == data.class_names.index(name)] for name in names}
    return {name: part for name, part in found.items() if len(part)}


def sides(matrix: Matrix) -> tuple[float, float]:
    """Mean on the diagonal, and beside it."""
    values = np.array(matrix)
    own = np.eye(len(values), dtype=bool)
    return float(values[own].mean()), float(values[~own].mean())


def draw(matrices: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row of three panels for every network."""
    most = max(len(found["classes"]) for found in matrices.values())
    side = 1.4 + 0.42 * most
    figure, panels = grid_of_panels(len(KINDS) * len(matrices), width=side + 0.4, height=side, max_columns=len(KINDS))
    image = None
    for number, axes in enumerate(panels):
        name, kind = list(matrices)[number // len(KINDS)], KINDS[number % len(KINDS)]
        classes, values = matrices[name]["classes"], np.array(matrices[name][kind])
        image = axes.imshow(values, cmap=MAP, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values) if len(classes) <= 12 else ():
            colour = "white" if value < 0.6 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        shown = [written(label, 16) for label in classes]
        axes.set_xticks(range(len(classes)), shown, fontsize=8, rotation=90 if max(map(len, shown)) > 3 else 0)
        axes.set_yticks(range(len(classes)), shown, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{written(name, 24)}: {kind}", loc="left", fontsize=10)
    if image is not None:
        colour_bar(figure, panels, image, "1: as the source")
    return figure


def measure(
    zoo: Zoo, names: Sequence[str], words: Sequence[str], settings: LocalisationSettings, seed: int
) -> dict[str, dict[str, Any]]:
    """The matrices of some networks of a zoo, by name.

    Raises:
        UserError: A network that the zoo does not have, or of which the data has fewer than two classes.
    """
    networks, data, found = FrozenNetworks(zoo), open_dataset([*words, f"seed={seed}"], None), {}
    for name in names or [name for name, entry in zoo.items() if len({*entry.classes} & {*data.class_names}) > 1]:
        network = networks(name)
        train, test = (images_by_class(data, split, network) for split in ("train", "test"))
        classes = [label for label in train if label in test]
        if len(classes) < 2:
            known = ", ".join(network.classes[:5])
            raise UserError(f"{name} knows {known}: {data.name} has images of {len(classes)} of them, 2 are needed")
        train, test = ({label: part[label] for label in classes} for part in (train, test))
        found[name] = {"classes": classes, **class_matrices(network, train, test, settings, seed=seed)}
    if not found:
        raise UserError(f"no network of the zoo {zoo.name!r} knows two classes of {data.name}: type dataset=...")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """The command; writes figure, JSON and Markdown."""
    words = list(sys.argv[1:] if words is None else words)
    threads.prepare()
    parser = Parser("python -m studies.locality", description=CLAIM)
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="dataset=...; default: mnist5k")
    parser.add_argument("--zoo", default="embedded", help="name or YAML file")
    parser.add_argument("--networks", nargs="+", default=[], help="default: all that know two of the data's classes")
    parser.add_argument("--localiser", default="lime", help="as localisation=...")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the MACs behind gates that a module keeps")
    parser.add_argument(
        "--contrast",
        type=float,
        default=LocalisationSettings().contrast,
        help="weight of other classes when features are left out; 0: all are handed on",
    )
    parser.add_argument("--steps", type=positive, default=LocalisationSettings().num_steps, help="of each localisation")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0)
    parser.add_argument("--output", type=Path, help="without a suffix; default: benchmarks/results/study_locality_ZOO")
    arguments = parser.parse_intermixed_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        for word in arguments.overrides:
            if not word.lstrip("+~").startswith(("dataset=", "dataset.")):
                raise UserError(f"{shown(word)} has no effect here: type dataset=NAME or dataset.KEY=..., or --seed N")
        require_files("--output", arguments.output or RESULTS / "study")
        settings = LocalisationSettings(
            arguments.localiser, keep=arguments.keep, num_steps=arguments.steps, contrast=arguments.contrast
        )
        zoo = read_zoo(arguments.zoo)
        overrides = arguments.overrides or ["dataset=mnist5k"]
        matrices = measure(zoo, arguments.networks, overrides, settings, arguments.seed)
    except UserError as error:
        sys.exit(tell(error, keys()))
    path = arguments.output or RESULTS / f"study_locality_{zoo.name}"
    measured = "; ".join(
        f"{name}: " + ", ".join("{} {:.2f} and {:.2f}".format(kind, *sides(found[kind])) for kind in KINDS)
        for name, found in matrices.items()
    )
    conditions = (
        f"keep {arguments.keep:g}, {' '.join(overrides)}, seed {arguments.seed}; on the class and on the others"
    )
    command = f"python -m studies.locality{' ' + shlex.join(words) if words else ''}"
    told = {"claim": CLAIM, "measured": measured, "conditions": conditions, "command": command}
    lines = ["# locality of modules, class by class", "", *(f"- {key}: {value}" for key, value in told.items())]
    write_text(with_end(path, ".md"), "\n".join(lines) + "\n")
    write_json(with_end(path, ".json"), {**told, "matrices": matrices})
    save(draw(matrices), with_end(path, ".png"))
    print(f"{measured} ({conditions})", flush=True)


if __name__ == "__main__":
    run(main)
