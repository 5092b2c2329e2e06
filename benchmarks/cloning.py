"""Cloning against its rivals: ``python -m benchmarks.cloning`` (hours; ``--methods`` and ``--scenarios`` choose).

Stopped, it goes on where it was: every row is written when it is there, and one that is there is not made again unless
``--again`` names its method.

Each scenario (``benchmarks/scenarios``, any YAML file) says which classes a target knows and which are cloned from
whom; ten exemplars of each of the target's classes, or none, and 30 % of the images of the cloned ones. Every way gets
the same images and epochs: with ``--augmentation affine`` the same four distorted copies of each, else none, as with
``correction.num_copies=0``. Apart from that cloning runs with its defaults; of the other ways that have strengths three
each are tried with every seed, and the one with the best mean of original and cloned accuracy on the validation split
is kept. Calibrated ensembles fit their scales there. ``joint`` has as many epochs over all training images: the upper
bound.

The controls are the clones that were chosen with as many gates open in every layer at random, and with all open.

Figures are accuracies in percent averaged over classes, mean and standard deviation over the seeds, which draw the
networks (where the benchmark trains its own), the splits, the exemplars, and all else.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.cloning_scenarios import Scenario, read_scenario
from benchmarks.cloning_table import AUGMENTED, Key, Row, Strengths, line, read_rows, write_rows
from benchmarks.common import workers
from cloning.clone import Clone, spread_cuts
from cloning.fitting import calibrate_network_head, with_fitted_adapters
from cloning.frozen import FrozenNetworks
from cloning.gates import num_gates
from cloning.measures import measure_costs, num_bytes, random_like
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch
from cloning.rivals import RIVALS
from cloning.rivals.problem import CloningProblem, given_samples, num_copies
from cloning.rivals.training import RivalSettings
from cloning.samples import Samples
from cloning.settings import CloningSettings, CorrectionSettings, InsertionSettings, TaskSettings
from cloning.tuning import tune_cloned
from datamodules.correction import CorrectionData
from tuning.settings import OptimizerSettings, TuningSettings
from zoo.arguments import Parser, positive, run, whole
from zoo.chain.costs import Costs, count
from zoo.registry import Zoo
from zoo.storage.places import require_directory
from zoo.storage.store import Store

NUM_EPOCHS = 10
"""Over the correction data in class-balanced batches; of ``joint`` over all its images, which makes more steps."""

OPTIMIZER = OptimizerSettings(learning_rate=1e-3)
"""Of cloning, as its default (``conf/optimizer/solved_head.yaml``)."""

FRACTION = 0.3
"""Of the training images of each cloned class."""

DEFAULT = (
    "embedded",
    "mnist5k_one_source",
    "mnist5k_two_sources",
    "mnist5k_resnet_convnext",
    "mnist5k_convnext_resnet",
)

_LWF = (
    {"learning_rate": 3e-3, "strength": 0.1},
    {"learning_rate": 3e-3, "strength": 0.5},
    {"learning_rate": 1e-3, "strength": 2.0},
)
_EWC = (
    {"learning_rate": 3e-3, "strength": 1e2},
    {"learning_rate": 3e-3, "strength": 1e3},
    {"learning_rate": 1e-3, "strength": 1e4},
)
_RATES = tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2))
TRIES: Mapping[str, tuple[Strengths, ...]] = {
    "cloning": ({},),
    "cloning_none": ({},),
    "cloning_random": ({},),
    "cloning_statistics": ({},),
    "full_cloning": tuple({"learning_rate": rate} for rate in (3e-4, 1e-3, 3e-3)),
    "concatenated": ({},),
    "ensemble_softmax": ({},),
    "ensemble_logits": ({},),
    "ensemble_calibrated": ({},),
    "ranpac": tuple({"strength": strength} for strength in (1e-5, 1e-3, 1e-1)),
    "lwf_sources": _LWF,
    "ewc_sources": _EWC,
    "fine_tune_sources": _RATES,
    "lwf": _LWF,
    "ewc": _EWC,
    "fine_tune": _RATES,
    "joint": _RATES,
}
"""Strengths that are tried; the search of cloning makes its own choices on the same images."""

SEARCHED = ("cloning", "cloning_none", "cloning_random", "full_cloning")
"""Ways that begin with one search, and are measured together."""

WITHOUT_EXEMPLARS = (
    "cloning_statistics",
    "ensemble_softmax",
    "ensemble_logits",
    "ensemble_calibrated",
    "ranpac",
    "joint",
)
"""Ways that the number of exemplars does not touch: measured once, in the table of none."""

WITH_EXEMPLARS = ("full_cloning",)
"""Ways that train nothing without exemplars: what they begin with has a row of its own."""


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

    def __init__(self, scenario: Scenario, seed: int, exemplars: int, augmentation: str | None, zoo: Zoo) -> None:
        self.scenario, self.seed, self.exemplars, self.zoo = scenario, seed, exemplars, zoo
        self.data = scenario.data(seed, f"dataset.augmentation={augmentation or 'null'}")
        kept, cloned = scenario.task(self.data.class_names)
        gained = tuple(name for names in cloned.values() for name in names)
        self.task = TaskSettings(kept, gained, scenario.target, tuple(cloned))
        classes = (*kept, *gained)
        networks = FrozenNetworks(zoo)
        target, clones = networks(scenario.target), []
        for name, given in cloned.items():
            source = networks(name)
            clones.append(Clone(source, given, torch.ones(num_gates(source.sites)), 0))
        weak = CorrectionData(self.data, classes=classes, cloned=gained, fraction=FRACTION, exemplars=exemplars)
        everything = CorrectionData(self.data, classes=classes, cloned=classes, fraction=1.0, exemplars=0)
        weak.use_input(target.input)
        everything.use_input(target.input)
        cuts = spread_cuts(target, InsertionSettings().num_head_cuts) if exemplars else ()
        network = ClonedNetwork(target, classes, clones, [None] * len(clones), cuts)
        self.everything = everything
        self.problem = CloningProblem(network, weak, given_samples(everything, target.input))

    def rows(self, methods: Sequence[str]) -> Iterator[Row]:
        """Of some ways; those that share a search, of one search."""
        if set(methods) & {*SEARCHED, "cloning_statistics"}:
            yield from self._cloned(methods)
        else:
            yield from (self.rival(method, TRIES[method]) for method in methods)

    def _cloned(self, methods: Sequence[str]) -> Iterator[Row]:
        """Cloning with its defaults, as ``search.py`` and ``train.py`` do it, and what starts where it starts."""
        is_statistics = "cloning_statistics" in methods
        name, exemplars = ("statistics", 0) if is_statistics else ("exemplars", self.exemplars)
        copies = {"num_copies": num_copies(self.data)}
        correction = CorrectionSettings(name, fraction=FRACTION, exemplars=exemplars, **copies)
        with tempfile.TemporaryDirectory() as directory:
            started, settings = time.perf_counter(), CloningSettings(self.task, correction=correction)
            search = CloningSearch(self.zoo, self.data, settings, store=Store(directory), seed=self.seed)
            blueprint = search.run().blueprint
            searched = time.perf_counter() - started
        network = search.build(blueprint)
        problem = replace(self.problem, network=network, data=search.correction(blueprint))
        for method in methods:
            if method == "full_cloning":
                yield self.rival(method, TRIES[method], problem)
                continue
            started = time.perf_counter()
            if method in CONTROLS:
                clones = [CONTROLS[method](clone, self.seed) for clone in network.clones]
                parts = network.target, network.classes, clones, network.adapters, network.head_cuts
                tuned = ClonedNetwork(*parts)
                tuned = with_fitted_adapters(tuned, problem.correction.images, seed=self.seed)
                if not self.exemplars:
                    calibrate_network_head(tuned, Samples(*problem.data.images("val", tuned.target.input)))
            else:
                tuned = copy.deepcopy(network)
            with tempfile.TemporaryDirectory() as directory:
                tuning = TuningSettings(num_epochs=NUM_EPOCHS)
                options = {"run_dir": Path(directory), "seed": self.seed, "optimizer": OPTIMIZER, **copies}
                tuned, _ = tune_cloned(tuned, problem.data, tuning, test=False, **options)
            shipped = search.statistics(network).num_bytes if is_statistics else 0
            trial = Trial(tuned, searched + time.perf_counter() - started, {})
            yield self._row(method, [trial], blueprint.composition, more_bytes=shipped)

    def rival(self, method: str, tries: Sequence[Strengths], problem: CloningProblem | None = None) -> Row:
        """Any other way: the best of some strengths on validation."""
        problem = problem or self.problem
        data = self.everything if method == "joint" else problem.data
        num_steps = NUM_EPOCHS * len(data.train_dataloader())
        trials = []
        for strengths in tries:
            started = time.perf_counter()
            settings = RivalSettings(num_steps=num_steps, **strengths)
            module = RIVALS[method](problem, settings, seed=self.seed)
            trials.append(Trial(module, time.perf_counter() - started, strengths))
        return self._row(method, trials)

    def _row(self, method: str, trials: Sequence[Trial], composition: str = "", more_bytes: int = 0) -> Row:
        tried = [self.problem.accuracies(trial.module, "val").mean for trial in trials]
        best = trials[tried.index(max(tried))]
        found = self.problem.accuracies(best.module, "test")
        costs, own = self._costs(best.module), self.problem.target.chain.costs
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
            num_bytes=best.num_bytes + more_bytes,
            seconds=best.seconds,
            added_macs=costs.macs - own.macs,
            added_params=costs.num_params - own.num_params,
        )

    def _costs(self, module: torch.nn.Module) -> Costs:
        """Of all that runs: what the module holds, and the networks of the zoo beside it."""
        if isinstance(module, ClonedNetwork):
            return measure_costs(module)
        costs = count(module, self.problem.target.input.example())
        beside = getattr(module, "networks", ())
        return Costs(costs.num_params + sum(n.chain.costs.num_params for n in beside), costs.macs)


CONTROLS = {
    "cloning_none": lambda clone, seed: replace(clone, gates=torch.ones_like(clone.gates), selected=None),
    "cloning_random": lambda clone, seed: random_like(clone, seed=seed),
}

Job = tuple[Scenario, int, int, tuple[str, ...]]
"""A scenario, a seed, a number of exemplars, and ways that are measured together."""


def compare(job: Job, *, augmentation: str | None, root: str) -> list[Row]:
    """Some ways in one scenario with one seed."""
    scenario, seed, exemplars, methods = job
    torch.set_num_threads(1)
    rows = []
    for row in Contest(scenario, seed, exemplars, augmentation, scenario.read(seed, Store(root))).rows(methods):
        print(line(row), flush=True)
        rows.append(row)
    return rows


def missing_jobs(
    rows: Mapping[Key, Row], scenarios: Sequence[Scenario], seeds: int, exemplars: Sequence[int], methods: Sequence[str]
) -> list[Job]:
    """What is left to measure, one seed after the other."""
    jobs: list[Job] = []
    for seed, scenario, number in product(range(seeds), scenarios, exemplars):
        wanted = [
            method
            for method in methods
            if method not in (WITHOUT_EXEMPLARS if number else WITH_EXEMPLARS)
            and getattr(rows.get((scenario.name, number, method, seed)), "added_macs", None) is None
        ]
        together = tuple(method for method in SEARCHED if method in wanted)
        groups = [together] * bool(together) + [(method,) for method in wanted if method not in SEARCHED]
        jobs += [(scenario, seed, number, group) for group in groups]
    return jobs


def main() -> None:
    """Runs the comparison; writes ``benchmarks/results/cloning.md`` and ``.json``, anew whenever a job ends."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--exemplars", type=whole(0), nargs="+", default=[10, 0])
    parser.add_argument("--scenarios", nargs="+", default=DEFAULT, help="names in benchmarks/scenarios, or YAML files")
    parser.add_argument("--methods", nargs="+", choices=tuple(TRIES), default=tuple(TRIES))
    parser.add_argument("--again", nargs="+", choices=tuple(TRIES), default=(), help="measure these anew")
    parser.add_argument(
        "--augmentation", choices=["affine"], help="distort the images; by default they stay as they are"
    )
    parser.add_argument("--processes", type=positive, default=2)
    parser.add_argument("--cache", default="runs/cache", help="where the networks that are trained first are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    require_directory("--results", arguments.results)
    require_directory("--cache", arguments.cache, is_read=True)
    path = arguments.results / f"cloning{AUGMENTED if arguments.augmentation else ''}"
    scenarios = [read_scenario(name) for name in arguments.scenarios]
    rows = read_rows(path)
    known = {key: row for key, row in rows.items() if row.method not in arguments.again}
    jobs = missing_jobs(known, scenarios, arguments.seeds, arguments.exemplars, arguments.methods)
    for made in _made(
        partial(compare, augmentation=arguments.augmentation, root=arguments.cache), jobs, arguments.processes
    ):
        rows |= {row.key: row for row in made}
        write_rows(path, rows, tuple(TRIES))


def _made(work: partial, jobs: Sequence[Job], processes: int) -> Iterable[list[Row]]:
    if processes == 1:
        yield from map(work, jobs)
        return
    with workers(processes) as pool:
        yield from pool.map(work, jobs)


if __name__ == "__main__":
    run(main, goes_on=True)
