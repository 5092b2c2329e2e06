"""What ``correction=statistics`` is worth against the width of its projection: ``python -m benchmarks.statistics``.

Scenarios of ``benchmarks.cloning`` without any image of the target's classes, with whole sources at the image (no
search, no mask), so that nothing but the head is compared: the closed form of the strict mode, and the head that the
owners' sums say, with all the images that they may have and with fewer; the last row has a ridge of its own in the
place of the chosen one. Test accuracy in percent, mean of original and cloned classes, averaged over the seeds; bytes
of the sums of all owners together.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cloning_scenarios import Scenario, read_scenario
from cloning.clone import Clone, spread_cuts
from cloning.fitting import network_features
from cloning.frozen import FrozenNetworks
from cloning.gates import num_gates
from cloning.measures import accuracies_of_logits, mean
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.settings import InsertionSettings
from cloning.statistics import Statistics, owner_sums, solve_from_statistics
from datamodules.correction import CorrectionData
from zoo.arguments import Parser, positive, run
from zoo.storage.files import write_text
from zoo.storage.places import require_directory
from zoo.storage.store import Store

PROJECTIONS = (16, 24, 32, 48, 64, 128)
SHARES = (1.0, 0.1)
"""Of the images of every class."""

CLOSED = "closed form"
FIXED = "64, ridge 0.001"
Cells = dict[str | int, tuple[float, int]]
"""Accuracy and bytes of all owners together, by the width of the projection."""

NAMES = ("mnist5k_two_sources", "mnist5k_resnet_convnext", "mnist5k_convnext_resnet")


def measure(scenario: Scenario, seed: int, store: Store, share: float) -> Cells:
    """Owners sum over a share of the images of each class that they may sum over."""
    networks, data = FrozenNetworks(scenario.read(seed, store)), scenario.data(seed, "dataset.augmentation=null")
    kept, cloned = scenario.task(data.class_names)
    target = networks(scenario.target)
    data.use_input(target.input)
    classes = (*kept, *(name for names in cloned.values() for name in names))
    sources = {networks(name): names for name, names in cloned.items()}
    clones = [Clone(source, names, torch.ones(num_gates(source.sites)), 0) for source, names in sources.items()]
    cuts = spread_cuts(target, InsertionSettings().num_head_cuts)
    network = ClonedNetwork(target, classes, clones, [None] * len(clones), cuts)

    def images(split: str, own: tuple[str, ...], fraction: float) -> tuple[Tensor, Tensor]:
        part = CorrectionData(data, classes=classes, cloned=own, fraction=fraction, exemplars=0)
        return part.images(split, target.input)

    owners = {target.name: (kept, share), **{source.name: (names, 0.3 * share) for source, names in sources.items()}}
    samples = {owner: Samples(*images("train", *of)) for owner, of in owners.items()}
    x, labels = images("test", classes, 1.0)
    features = network_features(network, x)

    def accuracy() -> float:
        with torch.no_grad():
            found = accuracies_of_logits(network.head(features), labels, len(classes))
        return mean([mean(found[: len(kept)]), mean(found[len(kept) :])])

    rows: Cells = {CLOSED: (accuracy(), 0)}
    for key, projection, ridge in (*((width, width, None) for width in PROJECTIONS), (FIXED, 64, 1e-3)):
        shipped = Statistics()
        for owner, own in samples.items():
            shipped = shipped.with_sums(owner_sums(network, [own], owner, projection=projection))
        solve_from_statistics(network, shipped, projection=projection, ridge=ridge)
        rows[key] = accuracy(), shipped.num_bytes
    return rows


def table(found: Mapping[str, list[Cells]]) -> list[str]:
    """Markdown: a row a width, two columns a scenario."""
    lines = [
        "| projection | " + " | ".join(f"{name} | bytes" for name in found) + " |",
        "|---" * (1 + 2 * len(found)) + "|",
    ]
    for key in (CLOSED, *PROJECTIONS, FIXED):
        cells = [
            f"{100 * statistics.fmean(rows[key][0] for rows in seeds):.1f} | {seeds[0][key][1]:,}"
            for seeds in found.values()
        ]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measures; writes ``benchmarks/results/statistics.md``."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=positive, default=2)
    parser.add_argument("--scenarios", nargs="+", default=NAMES)
    parser.add_argument("--cache", default="runs/cache", help="where the networks that are trained first are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    require_directory("--results", arguments.results)
    require_directory("--cache", arguments.cache, is_read=True)
    torch.set_num_threads(1)
    note = (
        "`python -m benchmarks.statistics`, no image of the target's classes, whole sources at the image: test "
        f"accuracy in percent; bytes of all owners' sums together. {arguments.seeds} seeds. The ridge is chosen by "
        "generalised cross-validation, but for the last row."
    )
    lines = ["# Heads from sums in the place of images", "", note, ""]
    for share in SHARES:
        found: dict[str, list[Cells]] = {}
        for scenario in map(read_scenario, arguments.scenarios):
            for seed in range(arguments.seeds):
                found.setdefault(scenario.name, []).append(measure(scenario, seed, Store(arguments.cache), share))
                print(share, scenario.name, seed, found[scenario.name][-1], flush=True)
        lines += [f"## Of {share:.0%} of the images", "", *table(found), ""]
    write_text(arguments.results / "statistics.md", "\n".join(lines[:-1]))


if __name__ == "__main__":
    run(main)
