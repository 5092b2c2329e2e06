"""What composing is worth on the embedded zoo: ``python -m benchmarks.reassembly`` (about half an hour on two cores).

For every data set and split, one search under the default budget; then the pick, the best whole and the best truncated
network by the same proxy under the same budget, and random assemblies, each tuned in the same way. Beside them the best
linear probe of a whole network, under no budget, chosen on validation. Figures are test accuracies in percent, mean and
standard deviation over the splits; what is chosen is chosen on training or validation images.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import embedded_zoo
from datamodules import ClutteredMNIST, Digits, ImageDataModule
from reassembly.pipeline import Search
from reassembly.result import SearchResult
from reassembly.scoring import ScoredCandidate
from reassembly.settings import Budget, PartitionSettings, SearchSettings
from tuning.fit import TuningResult, tune
from tuning.settings import TuningSettings
from zoo.arguments import Parser, positive, run, whole
from zoo.blueprint import ReassemblyBlueprint
from zoo.storage.files import write_json
from zoo.storage.store import Store

DATA = {"digits": Digits, "cluttered_mnist": ClutteredMNIST}
EPOCHS = {"freeze": 10, "full": 10, "probe": 0}
SETTINGS = SearchSettings(partition=PartitionSettings(num_blocks=3), budget=Budget(max_params=200_000))


def tuned(search: Search, data: ImageDataModule, blueprint: ReassemblyBlueprint, mode: str, seed: int) -> TuningResult:
    """Tunes the network of a blueprint with the default settings of a mode."""
    data.use_input(search.zoo[blueprint.blocks[0].network].input)
    with tempfile.TemporaryDirectory() as directory:
        settings = TuningSettings(mode=mode, num_epochs=EPOCHS[mode])
        return tune(search.build(blueprint), data, settings, run_dir=Path(directory), seed=seed)


def contenders(found: SearchResult, num_random: int, seed: int) -> dict[str, list[ScoredCandidate]]:
    """The candidates that are compared, by their row in the table."""
    first = {
        kind: next((c for c in found.candidates if c.candidate.kind == kind), None) for kind in ("network", "truncated")
    }
    assemblies = [entry for entry in found.candidates if entry.candidate.kind == "assembly"]
    rows = {
        "pick": [found.candidates[0]],
        "best assembly": assemblies[:1],
        "best whole network in the budget": [entry for entry in (first["network"],) if entry],
        "best truncated network": [entry for entry in (first["truncated"],) if entry],
        "random assemblies": random.Random(seed).sample(assemblies, min(num_random, len(assemblies))),
    }
    return {name: entries for name, entries in rows.items() if entries}


def best_probe(search: Search, data: ImageDataModule, seed: int) -> float:
    """Test accuracy of the linear probe that is best on validation, over all whole networks of the zoo."""
    probes = [tuned(search, data, search.whole_network(name), "probe", seed) for name in search.zoo]
    return max(probes, key=lambda result: result.val_accuracies["start"]).test_accuracy


def main() -> None:
    """Runs the comparison and writes ``benchmarks/results/reassembly_DATA.json``."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=positive, default=3)
    parser.add_argument("--random", type=whole(0), default=1, help="random assemblies of each split")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--data", choices=DATA, nargs="*", default=list(DATA))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    accuracies: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    picks: dict[str, list[str]] = defaultdict(list)
    zoo = embedded_zoo()
    for name in arguments.data:
        for seed in range(arguments.splits):
            data = DATA[name](seed=seed)
            with tempfile.TemporaryDirectory() as directory:
                search = Search(zoo, data, SETTINGS, store=Store(directory), seed=seed)
                found = search.run()
                picks[name].append(found.blueprint.composition)
                accuracies[name, "best probe of a whole network, no budget", "-"].append(best_probe(search, data, seed))
                done: dict[tuple[str, str], float] = {}
                for row, entries in contenders(found, arguments.random, seed).items():
                    for mode in ("probe", "freeze", "full"):
                        for entry in entries:
                            key = entry.candidate.composition, mode
                            if key not in done:
                                blueprint = search.blueprint(entry, found.descriptions)
                                done[key] = tuned(search, data, blueprint, mode, seed).test_accuracy
                            accuracies[name, row, mode].append(done[key])
                            print(f"{name} split {seed}: {row}, {mode}: {100 * done[key]:.1f} {key[0]}", flush=True)
    report(accuracies, picks)


def report(accuracies: dict[tuple[str, str, str], list[float]], picks: dict[str, list[str]]) -> None:
    """Prints the table and writes all figures."""
    for name, compositions in picks.items():
        table = Table("", "start", "freeze", "full", title=f"{name}: test accuracy in %, {len(compositions)} splits")
        rows = dict.fromkeys(row for data, row, _ in accuracies if data == name)
        for row in rows:
            cells = [accuracies.get((name, row, mode)) for mode in ("probe", "freeze", "full")]
            if alone := accuracies.get((name, row, "-")):
                cells = [alone, None, None]
            table.add_row(row, *(_mean(values) for values in cells))
        Console(width=120).print(table)
        figures = [{"row": r, "mode": m, "test_accuracies": v} for (d, r, m), v in accuracies.items() if d == name]
        path = Path(__file__).parent / "results" / f"reassembly_{name}.json"
        write_json(path, {"figures": figures, "picks": compositions})


def _mean(values: list[float] | None) -> str:
    if not values:
        return ""
    return f"{100 * statistics.fmean(values):.1f} ({100 * statistics.pstdev(values):.1f})"


if __name__ == "__main__":
    run(main)
