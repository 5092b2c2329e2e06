"""Cloning against its rivals on MNIST-5k: ``python -m benchmarks.cloning`` (a quarter of an hour on two free cores).

Each scenario says which digits a target knows and which are cloned from whom; ten exemplars of each of the target's
classes, or none, and 30 % of the images of the cloned ones. Every way gets the same images and epochs
(``--augmentation affine``: with the same distorted copies). Cloning runs with its defaults; of the other trained ways
three strengths each are tried with the first seed, and the one with the best mean of original and cloned accuracy on
the validation split is kept for all seeds. ``joint`` has as many epochs over all training images: the upper bound.

Figures are accuracies in percent averaged over classes, mean and standard deviation over the seeds, which draw the
networks (where the benchmark trains its own), the splits, the exemplars, and all else.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.cloning_zoo import trained_entry
from benchmarks.common import embedded_zoo
from cloning.measures import num_bytes
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch, CloningSettings
from cloning.rivals import RIVALS
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from cloning.settings import CorrectionSettings, TaskSettings
from cloning.tuning import correction_samples, tune_cloned
from datamodules import MNIST5k
from datamodules.correction import CorrectionData
from tuning.settings import TuningSettings
from zoo.registry import Zoo
from zoo.storage.files import write_json, write_text
from zoo.storage.records import to_plain
from zoo.storage.store import Store

Strengths = dict[str, float]

NUM_EPOCHS = 10
"""Over the correction data in class-balanced batches; of ``joint`` over all its images, which makes more steps."""


@dataclass(frozen=True)
class Scenario:
    """Who gives what to whom.

    Attributes:
        name: For tables.
        target: Name of the network that receives.
        kept: Digits that it keeps.
        cloned: Digits by source.
        networks: Digits that each network is trained on first, beside the networks of the embedded zoo.
    """

    name: str
    target: str
    kept: str
    cloned: Mapping[str, str]
    networks: Mapping[str, str]

    def zoo(self, seed: int, store: Store) -> Zoo:
        """The embedded zoo and the networks trained here, which are other ones with another seed."""
        trained = [trained_entry(*item, seed=seed, store=store) for item in self.networks.items()]
        return Zoo("benchmark", [*trained, *embedded_zoo().values()])


RESNETS = {"0-4": "01234", "5-9": "56789"}
SCENARIOS = (
    Scenario("P=1: 0-4 <- {5,6}", "0-4", "01234", {"5-9": "56"}, RESNETS),
    Scenario(
        "P=2: 0-3 <- {4,5} + {7,8}",
        "0-3",
        "0123",
        {"4-6": "45", "7-9": "78"},
        {"0-3": "0123", "4-6": "456", "7-9": "789"},
    ),
    Scenario("ResNet 0-4 <- ConvNeXt {7,9}", "0-4", "01234", {"convnext_odd": "79"}, RESNETS),
    Scenario("ConvNeXt 1,3,5,7,9 <- ResNet {0,2}", "convnext_odd", "13579", {"0-4": "02"}, RESNETS),
)

TRIES: Mapping[str, tuple[Strengths, ...]] = {
    "cloning": ({},),
    "full_cloning": tuple({"learning_rate": rate} for rate in (3e-4, 1e-3, 3e-3)),
    "ensemble_softmax": ({},),
    "ensemble_logits": ({},),
    "lwf": (
        {"learning_rate": 3e-3, "strength": 0.1},
        {"learning_rate": 3e-3, "strength": 0.5},
        {"learning_rate": 1e-3, "strength": 2.0},
    ),
    "ewc": (
        {"learning_rate": 3e-3, "strength": 1e2},
        {"learning_rate": 3e-3, "strength": 1e3},
        {"learning_rate": 1e-3, "strength": 1e4},
    ),
    "fine_tune": tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)),
    "joint": tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)),
}
"""Strengths that are tried. Cloning has none: choosing its keep ratio on validation was tried and gains nothing, since
the accuracy differs by less than half a point between 0.7 and 1."""

SAME_FOR_ALL = ("ensemble_softmax", "ensemble_logits", "joint")
"""Ways that the number of exemplars does not touch."""

NAMES = {
    "cloning": "**partial network cloning**",
    "full_cloning": "PNC-F (everything tuned)",
    "ensemble_softmax": "ensemble, softmax",
    "ensemble_logits": "ensemble, logits",
    "lwf": "LwF",
    "ewc": "EWC",
    "fine_tune": "fine-tuning",
    "joint": "joint training (upper bound)",
}

HEADING = (
    "# Cloning against its rivals",
    "",
    "`python -m benchmarks.cloning`: MNIST-5k, test accuracy in percent averaged over classes, mean and standard",
    "deviation over the seeds. All ways have the same images and epochs; cloning runs with its defaults, the strength",
    "of the other trained ways is the best of three on the first seed's validation split. Bytes are what travels to",
    "someone who has the zoo; seconds are wall time on one thread of a shared machine, of one run with its searches.",
)


@dataclass(frozen=True)
class Row:
    """One way in one scenario with one seed; accuracies in [0, 1] on the test split.

    Attributes:
        strengths: Of the try that was chosen.
        composition: Of cloning: who gives what at which position.
        tried: Mean validation accuracy of every try.
        num_bytes: Learnt values that travel to someone who has the zoo, in float32, and the bits of the gates.
        seconds: Of the try that was chosen, from its images to its weights.
    """

    scenario: str
    exemplars: int
    method: str
    seed: int
    strengths: Strengths
    composition: str
    tried: tuple[float, ...]
    original: float
    cloned: float
    mean: float
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A finished try: a module that answers the task, and what it took."""

    module: torch.nn.Module
    seconds: float
    strengths: Strengths

    @property
    def num_bytes(self) -> int:
        if isinstance(self.module, ClonedNetwork) and not len(self.module.copies):
            return num_bytes(self.module)
        return 4 * sum(parameter.numel() for parameter in self.module.parameters())


class Contest:
    """One scenario with one seed and one number of exemplars: all ways get their tries and give their rows."""

    def __init__(
        self, scenario: Scenario, seed: int, exemplars: int, augmentation: str | None, zoo: Zoo, store: Store
    ) -> None:
        self.scenario, self.seed, self.exemplars = scenario, seed, exemplars
        self.zoo, self.store = zoo, store
        self.data = MNIST5k(seed=seed, num_validation=500, batch_size=64, augmentation=augmentation)
        self.classes = (*scenario.kept, *"".join(scenario.cloned.values()))
        self.everything = CorrectionData(
            self.data, classes=self.classes, cloned=self.classes, fraction=1.0, exemplars=0
        )
        self.problem: CloningProblem | None = None

    def cloning(self) -> Row:
        """Cloning with its defaults, as ``search.py`` and ``train.py`` do it; comes first, for it states the task."""
        scenario = self.scenario
        settings = CloningSettings(
            TaskSettings(
                classes=tuple(scenario.kept),
                cloned=tuple("".join(scenario.cloned.values())),
                target=scenario.target,
                sources=tuple(scenario.cloned),
            ),
            correction=CorrectionSettings(exemplars=self.exemplars),
        )
        started = time.perf_counter()
        search = CloningSearch(self.zoo, self.data, settings, store=self.store, seed=self.seed)
        blueprint = search.run().blueprint
        network, weak = search.build(blueprint), search.correction(blueprint)
        self.everything.use_input(network.target.input)
        complete = correction_samples(self.everything, network.target.input)
        self.problem = CloningProblem(search.build(blueprint), weak, complete)
        with tempfile.TemporaryDirectory() as directory:
            tuning = TuningSettings(num_epochs=NUM_EPOCHS)
            network, _ = tune_cloned(network, weak, tuning, run_dir=Path(directory), seed=self.seed, test=False)
        return self._row("cloning", [Trial(network, time.perf_counter() - started, {})], blueprint.composition)

    def rival(self, method: str, tries: Sequence[Strengths]) -> Row:
        """Any other way: the best of some strengths on validation."""
        data = self.everything if method == "joint" else self.problem.data
        num_steps = NUM_EPOCHS * len(data.train_dataloader())
        trials = []
        for strengths in tries:
            started = time.perf_counter()
            settings = RivalSettings(num_steps=num_steps, **strengths)
            module = RIVALS[method](self.problem, settings, seed=self.seed)
            trials.append(Trial(module, time.perf_counter() - started, strengths))
        return self._row(method, trials)

    def _row(self, method: str, trials: Sequence[Trial], composition: str = "") -> Row:
        tried = [self.problem.accuracies(trial.module, "val").mean for trial in trials]
        best = trials[tried.index(max(tried))]
        found = self.problem.accuracies(best.module, "test")
        return Row(
            scenario=self.scenario.name,
            exemplars=self.exemplars,
            method=method,
            seed=self.seed,
            strengths=best.strengths,
            composition=composition,
            tried=tuple(tried),
            original=found.original,
            cloned=found.cloned,
            mean=found.mean,
            num_bytes=best.num_bytes,
            seconds=best.seconds,
        )


def compare(
    job: tuple[Scenario, int], *, found: Sequence[Row], exemplars: Sequence[int], augmentation: str | None, root: str
) -> list[Row]:
    """All ways in one scenario with one seed, with the strengths that another seed found, if any."""
    scenario, seed = job
    torch.set_num_threads(1)
    chosen = {(row.method, row.exemplars): [row.strengths] for row in found if row.scenario == scenario.name}
    zoo = scenario.zoo(seed, Store(root))
    rows: dict[tuple[str, int], Row] = {}
    for count in exemplars:
        with tempfile.TemporaryDirectory() as directory:
            contest = Contest(scenario, seed, count, augmentation, zoo, Store(directory))
            for method, tries in TRIES.items():
                if method == "cloning":
                    row = contest.cloning()
                elif method in SAME_FOR_ALL and count != exemplars[0]:
                    row = replace(rows[method, exemplars[0]], exemplars=count)
                else:
                    row = contest.rival(method, chosen.get((method, count), tries))
                rows[method, count] = row
                print(_line(row), flush=True)
    return list(rows.values())


def main() -> None:
    """Runs the comparison; writes ``benchmarks/results/cloning.md`` and ``.json``, anew whenever a scenario ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--exemplars", type=int, nargs="+", default=[10, 0])
    parser.add_argument("--scenarios", type=int, nargs="+", choices=range(len(SCENARIOS)), default=[0, 1, 2, 3])
    parser.add_argument(
        "--augmentation", choices=["affine"], help="distort the images; by default they stay as they are"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", default="runs/cache", help="where the networks that are trained first are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    name = "cloning_augmented" if arguments.augmentation else "cloning"
    started, rows = time.perf_counter(), []
    scenarios = [SCENARIOS[index] for index in arguments.scenarios]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for seeds in ([0], range(1, arguments.seeds)):
            work = partial(
                compare,
                found=tuple(rows),
                exemplars=arguments.exemplars,
                augmentation=arguments.augmentation,
                root=arguments.cache,
            )
            for part in pool.map(work, product(scenarios, seeds)):
                rows += part
                minutes = round((time.perf_counter() - started) / 60, 1)
                setting = f"Images {'distorted' if arguments.augmentation else 'as they are'}; {minutes} minutes."
                lines = [*HEADING, "", setting, *table(rows), ""]
                write_text(arguments.results / f"{name}.md", "\n".join(lines))
                write_json(arguments.results / f"{name}.json", {"minutes": minutes, "rows": to_plain(rows)})
    print("\n".join(table(rows)))


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown, one table per scenario and number of exemplars."""
    for scenario, exemplars in dict.fromkeys((row.scenario, row.exemplars) for row in rows):
        seeds = len({row.seed for row in rows if (row.scenario, row.exemplars) == (scenario, exemplars)})
        yield from ("", f"## {scenario}, {exemplars or 'no'} exemplars ({seeds} seeds)", "")
        yield "| | original | cloned | mean | bytes | seconds |"
        yield "|---|---|---|---|---|---|"
        for method in TRIES:
            of = [r for r in rows if (r.scenario, r.exemplars, r.method) == (scenario, exemplars, method)]
            cells = [_percent([getattr(r, key) for r in of]) for key in ("original", "cloned", "mean")]
            sizes, seconds = (statistics.fmean(getattr(r, key) for r in of) for key in ("num_bytes", "seconds"))
            yield f"| {NAMES[method]} | {' | '.join(cells)} | {sizes:,.0f} | {seconds:.1f} |"


def _percent(values: list[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.pstdev(values):.1f}"


def _line(row: Row) -> str:
    tried = ", ".join(f"{100 * value:.1f}" for value in row.tried)
    figures = " / ".join(f"{100 * value:.1f}" for value in (row.original, row.cloned, row.mean))
    chosen = row.composition or row.strengths or ""
    return f"{row.scenario} k={row.exemplars} seed {row.seed} {row.method}: {figures} {chosen} of {tried}"


if __name__ == "__main__":
    main()
