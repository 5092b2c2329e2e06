"""Which rule picks what to tune: ``python -m benchmarks.selection`` (hours on two cores; goes on where it stopped).

For every data set, split and mode one search under the larger budget. The rules pick out of its list, restricted to
each budget, and what they pick is tuned to the end, so that a rule is worth the test accuracy of its pick:

- ``ridge``: first by the ridge head on the last features, of whole networks, networks truncated at a block's border and
  assemblies (the pick before there were finalists),
- ``ridge_cuts``: first by the ridge head on all cuts, of all candidates,
- ``seven``: seats by the two scores alone, decided by short tuning,
- ``nine``: the default, with a seat for the best truncated and the best whole network.

The rival is the better on validation of networks of one piece: the truncated ones (at any node; in Freeze-Tuning with
adapters of their own where they fit) that are first by either score, and the best whole one. Beside every tuned network
stands what a head on all cuts, refitted in closed form, makes of it. Every choice is made on training or validation
images. A tuned network is a row of ``results/selection.jsonl``; the table is made of the rows there are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from benchmarks.common import embedded_zoo, workers
from datamodules import ClutteredMNIST, Digits, ImageDataModule
from reassembly.assembly import ScoredCandidate
from reassembly.finalists import choose_finalists, decide
from reassembly.pipeline import Search
from reassembly.result import SearchResult
from reassembly.settings import (
    Budget,
    HeadSettings,
    PartitionSettings,
    ProxySettings,
    SearchSettings,
    SelectionSettings,
)
from tuning.fit import tune
from tuning.ridge import calibrate, fit_ridge, leave_one_out_loss
from tuning.settings import TuningSettings
from zoo.arguments import Parser, positive, run
from zoo.blueprint import HeadSpec
from zoo.chain.batches import run_in_batches
from zoo.errors import UserError
from zoo.storage.files import read_json, write_text
from zoo.storage.places import require_directory
from zoo.storage.plain import parse_json
from zoo.storage.records import from_plain
from zoo.storage.store import Store

DATA = {"cluttered_mnist": ClutteredMNIST, "digits": Digits}
BUDGETS = (120_000, 200_000)
RESULTS = Path(__file__).parent / "results"
RULES = ("ridge", "ridge_cuts", "seven", "nine", "truncated", "network", "rival")
SCORES_ALONE = tuple(seat for seat in SelectionSettings().seats if seat in ("ridge", "ridge_cuts"))


@dataclass(frozen=True)
class Row:
    """A network tuned for some epochs; losses are leave-one-out ones of heads solved on the tuned features."""

    data: str
    split: int
    mode: str
    epochs: int
    composition: str
    kind: str
    num_params: int
    val: float
    test: float | None = None
    loss_last: float | None = None
    loss_all_cuts: float | None = None
    val_solved: float | None = None
    test_solved: float | None = None
    val_all_cuts: float | None = None
    test_all_cuts: float | None = None


class Rows:
    """The rows that there are; a new one is written as soon as it is measured."""

    def __init__(self, path: Path) -> None:
        self.path = path
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]  # what has no end was cut off
        places = [f"{path}, line {number}" for number in range(1, len(lines) + 1)]
        read = [from_plain(Row, parse_json(line, place), place) for line, place in zip(lines, places, strict=True)]
        self.found = {self._key(row): row for row in read}

    @staticmethod
    def _key(row: Row) -> tuple:
        return row.data, row.split, row.mode, row.epochs, row.composition

    def get(self, *key) -> Row | None:
        """By data, split, mode, epochs and composition."""
        return self.found.get(key)

    def drop_cut_line(self) -> None:
        """Takes away the beginning of a row that an earlier command left when it was killed."""
        text = self.path.read_bytes() if self.path.exists() else b""
        if not text.endswith(b"\n") and text:
            os.truncate(self.path, text.rfind(b"\n") + 1)

    def add(self, row: Row) -> None:
        """Keeps a row."""
        self.found[self._key(row)] = row
        with self.path.open("a") as file:
            file.write(json.dumps({name: value for name, value in asdict(row).items() if value is not None}) + "\n")


@dataclass(frozen=True)
class Cell:
    """One data set, split and mode, with what its search found."""

    name: str
    split: int
    mode: str
    data: ImageDataModule
    search: Search
    found: SearchResult
    rows: Rows
    num_epochs: int

    def tuned(self, entry: ScoredCandidate, epochs: int | None = None) -> Row:
        """The row of a candidate, tuned to the end or for some epochs; measured where there is none yet."""
        epochs, short = epochs or self.num_epochs, epochs is not None
        candidate = entry.candidate
        key = self.name, self.split, self.mode, epochs if short else -epochs, candidate.composition
        if (row := self.rows.get(*key)) is None:
            row = self._measure(entry, epochs, short=short)
            self.rows.add(row)
            print(f"{self.name} {self.split} {self.mode} {row.epochs}: {row.val:.3f} {row.composition}", flush=True)
        return row

    def _measure(self, entry: ScoredCandidate, epochs: int, *, short: bool) -> Row:
        candidate, recipe = entry.candidate, self.search.blueprint(entry, self.found.descriptions)
        recipe = replace(recipe, head=HeadSpec(classes=self.data.class_names))
        self.data.use_input(self.search.zoo[recipe.blocks[0].network].input)
        network = self.search.build(recipe)
        with tempfile.TemporaryDirectory() as directory:
            settings = TuningSettings(mode=self.mode, num_epochs=epochs)
            result = tune(network, self.data, settings, run_dir=Path(directory), seed=self.split, test=not short)
        about = (self.name, self.split, self.mode, epochs if short else -epochs, candidate.composition, candidate.kind)
        val = max(result.val_accuracies.values())
        if short:
            return Row(*about, candidate.num_params, val)
        heads = {}
        for inputs in ("last", "all_cuts"):
            network.read(inputs)
            heads[inputs] = self._solved(network)
        (loss_last, *last), (loss_all, *wide) = heads["last"], heads["all_cuts"]
        return Row(*about, candidate.num_params, val, result.test_accuracy, loss_last, loss_all, *last, *wide)

    def _solved(self, network) -> tuple[float, float, float]:
        """Leave-one-out loss, validation and test accuracy of a head that is solved on what the network reads."""
        features, labels = {}, {}
        for split in ("train", "val", "test"):
            images, labels[split] = self.data.images(split, self.data.input)
            features[split] = run_in_batches(nn.Sequential(*network.stages()), images, batch_size=100).double()
        fit = fit_ridge(features["train"], labels["train"], self.data.num_classes)
        (scores,) = fit.path.leave_one_out(features["train"], labels["train"], [fit.ridge])
        loss = leave_one_out_loss(fit, features["train"], labels["train"], calibrate(scores, labels["train"]))
        shares = [
            float(((features[split] @ fit.weight.T + fit.bias).argmax(1) == labels[split]).double().mean())
            for split in ("val", "test")
        ]
        return loss, *shares

    def picks(self, budget: int) -> Iterator[tuple[str, ScoredCandidate]]:
        """What every rule picks under a budget."""
        scored = [entry for entry in self.found.candidates if entry.candidate.num_params <= budget]
        partition = self.found.partition
        borders = {
            pair for name, cuts in zip(partition.networks, partition.cuts, strict=True) for pair in _pairs(name, cuts)
        }
        ends = {
            entry.candidate: (entry.candidate.blocks[-1].network, entry.candidate.blocks[-1].nodes[1])
            for entry in scored
        }
        before = [e for e in scored if ends[e.candidate] in borders and not e.candidate.is_adapted]
        yield "ridge", before[0]
        yield "ridge_cuts", max(scored, key=lambda entry: entry.scores["ridge_cuts"])
        for rule, seats in (("seven", SCORES_ALONE), ("nine", SelectionSettings().seats)):
            settings = SelectionSettings(seats=seats)
            finalists = choose_finalists(scored, len(seats), settings)
            yield rule, decide(finalists, settings.num_epochs, lambda e, n: self.tuned(e, n).val)[0]
        truncated: list[ScoredCandidate] = []
        for seat in ("truncated", "ridge_cuts", "ridge"):
            pool = [entry for entry in scored if entry.candidate.kind == "truncated" and entry not in truncated]
            names = {entry.candidate.blocks[0].network for entry in truncated} if seat == "ridge" else ()
            pool = [entry for entry in pool if entry.candidate.blocks[0].network not in names]
            truncated += choose_finalists(pool, 1, SelectionSettings(seats=(seat,)))
        whole = choose_finalists(scored, 1, SelectionSettings(seats=("network",)))
        best = max(truncated, key=lambda entry: self.tuned(entry).val)
        yield "truncated", best
        if whole and whole[0].candidate.kind == "network":
            yield "network", whole[0]
            best = max((best, whole[0]), key=lambda entry: self.tuned(entry).val)
        yield "rival", best


def _pairs(name: str, cuts: Sequence[int]) -> list[tuple[str, int]]:
    return [(name, cut) for cut in cuts]


def search_cell(name: str, split: int, mode: str, rows: Rows, num_epochs: int, cache: Path) -> Cell:
    """Searches for one cell, without training."""
    data = DATA[name](seed=split)
    settings = SearchSettings(
        partition=PartitionSettings(num_blocks=3),
        budget=Budget(max_params=max(BUDGETS)),
        proxy=ProxySettings(also=("ridge_cuts",)),
        head=HeadSettings("auto"),
        tuning_mode=mode,
    )
    search = Search(embedded_zoo(), data, settings, store=Store(cache), seed=split)
    return Cell(name, split, mode, data, search, search.run(), rows, num_epochs)


def main() -> None:
    """Measures what is lacking, cell by cell, and writes the table after each."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=positive, default=5, help="seeds 0, 1, ...")
    parser.add_argument("--epochs", type=positive, default=4, help="of a network that is tuned to the end")
    parser.add_argument("--data", choices=DATA, nargs="+", default=list(DATA))
    parser.add_argument("--modes", choices=("full", "freeze"), nargs="+", default=["full", "freeze"])
    parser.add_argument("--jobs", type=positive, default=1, help="processes, each with cells of its own")
    parser.add_argument("--cache", default="runs/cache")
    parser.add_argument("--table", action="store_true", help="only make the table of the rows there are")
    arguments = parser.parse_args()
    require_directory("--cache", arguments.cache, is_read=True)
    picks_file = RESULTS / "selection_picks.json"
    picks = _read_picks(picks_file)
    rows = Rows(RESULTS / "selection.jsonl")
    if arguments.table and not complete(rows, picks, arguments.epochs):
        others = sorted({_place(key)[4] for key in picks} - {arguments.epochs})
        there = f"there are those of --epochs {' or '.join(map(str, others))}" if others else "there are none"
        raise UserError(f"--epochs {arguments.epochs}: no cell has all of its rows; {there}, or leave out --table")
    if not arguments.table:
        rows.drop_cut_line()
    known = complete(rows, picks, arguments.epochs)
    cells = [
        (name, split, mode)
        for split in range(0 if arguments.table else arguments.splits)
        for name in arguments.data
        for mode in arguments.modes
    ]
    missing = [cell for cell in cells if any((*cell, b) not in known for b in BUDGETS)]
    if missing:
        with workers(min(arguments.jobs, len(missing))) as pool:
            running = [pool.submit(picked, *cell, arguments.epochs, Path(arguments.cache)) for cell in missing]
            for done in as_completed(running):
                picks |= done.result()
                write_text(picks_file, json.dumps(dict(sorted(picks.items())), indent=1))
                write_text(RESULTS / "selection.md", table(Rows(rows.path), picks, arguments.epochs))
    write_text(RESULTS / "selection.md", table(Rows(rows.path), picks, arguments.epochs))


def picked(name: str, split: int, mode: str, num_epochs: int, cache: Path) -> dict[str, dict[str, str]]:
    """What every rule picks in one cell under each budget; all of it is tuned to the end."""
    cell = search_cell(name, split, mode, Rows(RESULTS / "selection.jsonl"), num_epochs, cache)
    return {
        _key(name, split, mode, budget, num_epochs): {
            rule: cell.tuned(entry).composition for rule, entry in cell.picks(budget)
        }
        for budget in BUDGETS
    }


def _key(name: str, split: int, mode: str, budget: int, num_epochs: int) -> str:
    return f"{name} {split} {mode} {budget} {num_epochs}"


def _place(key: str) -> tuple[str, int, str, int, int]:
    """Data, split, mode, budget and epochs."""
    name, split, mode, budget, epochs = key.split()
    return name, int(split), mode, int(budget), int(epochs)


def _read_picks(path: Path) -> dict[str, dict[str, str]]:
    picks = read_json(path) if path.exists() else {}
    try:
        if all(isinstance(found["rival"], str) and _place(key) for key, found in picks.items()):
            return picks
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path} holds other things than picks: take it away, and they are made again")


def complete(rows: Rows, picks: dict[str, dict[str, str]], num_epochs: int) -> dict[tuple, dict[str, float]]:
    """Test accuracies of the rules by data, split, mode and budget, where the rows of all picks are there."""
    found = {}
    for key, by_rule in picks.items():
        name, split, mode, budget, epochs = _place(key)
        if epochs == num_epochs:
            own = {rule: rows.get(name, split, mode, -epochs, composition) for rule, composition in by_rule.items()}
            if all(row is not None and row.test is not None for row in own.values()):
                found[name, split, mode, budget] = {rule: row.test for rule, row in own.items()}
    return found


def table(rows: Rows, picks: dict[str, dict[str, str]], num_epochs: int) -> str:
    """The rules and the head on all cuts after so many epochs, as Markdown."""
    test, head = defaultdict(lambda: defaultdict(dict)), defaultdict(list)
    for (name, split, mode, budget), by_rule in complete(rows, picks, num_epochs).items():
        for rule, accuracy in by_rule.items():
            test[name, mode, budget][rule][split] = accuracy
    for row in rows.found.values():
        if row.epochs == -num_epochs and row.test_all_cuts is not None:
            by_loss = row.test_all_cuts if row.loss_all_cuts < row.loss_last else row.test_solved
            by_val = row.test_all_cuts if row.val_all_cuts > row.val else row.test
            head[row.data, row.mode, row.kind].append((row.test, row.test_solved, row.test_all_cuts, by_loss, by_val))
    lines = [
        f"Test accuracy in % after {num_epochs} epoch{'s' * (num_epochs > 1)}, mean over the splits "
        "(minus the rival; splits in which it is not below the rival).",
        "`python -m benchmarks.selection`",
        "",
        "| data, mode, budget | splits | " + " | ".join(RULES) + " |",
        "|" + "---|" * (len(RULES) + 2),
    ]
    for (name, mode, budget), found in sorted(test.items()):
        cells = []
        for rule in RULES:
            values = found.get(rule, {})
            if not values:
                cells.append("none fits")
                continue
            mean = 100 * statistics.fmean(values.values())
            gains = [100 * (value - found["rival"][split]) for split, value in values.items()]
            beside = f" ({statistics.fmean(gains):+.1f}, {sum(gain >= 0 for gain in gains)}/{len(gains)})"
            cells.append(f"{mean:.1f}" + ("" if rule == "rival" else beside))
        lines.append(f"| {name}, {mode}, {budget:,} | {len(found['rival'])} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The head of the same tuned networks, test accuracy in %: as chosen by tuning, solved anew on the last",
        "features, solved on all cuts, solved on whichever has the lower leave-one-out loss, and the better of tuned",
        "and all cuts on validation.",
        "",
        "| data, mode, kind | networks | tuned | last | all cuts | by loss | by validation | all cuts less last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, values in sorted(head.items()):
        means = [100 * statistics.fmean(column) for column in zip(*values, strict=True)]
        gains = [100 * (wide - last) for _, last, wide, *_ in values]
        told = f"{statistics.fmean(gains):+.1f}, {sum(gain > 0 for gain in gains)} of {len(gains)} above"
        lines.append(f"| {', '.join(key)} | {len(values)} | " + " | ".join(f"{m:.1f}" for m in means) + f" | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, goes_on=True)
