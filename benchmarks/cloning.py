"""Cloning against its rivals: ``python -m benchmarks.cloning`` (hours; ``--methods`` and ``--scenarios`` choose).

Each scenario (``benchmarks/scenarios``, any YAML file) says which classes a target knows and which are cloned from
whom; ten exemplars of each of the target's classes, or none, and 30 % of the images of the cloned ones. Every way gets
the same images and epochs (``--augmentation affine``: with the same distorted copies). Cloning runs with its defaults;
of the other ways that have strengths three each are tried with every seed, and the one with the best mean of original
and cloned accuracy on the validation split is kept. Calibrated ensembles fit their scales there. ``joint`` has as many
epochs over all training images: the upper bound.

Figures are accuracies in percent averaged over classes, mean and standard deviation over the seeds, which draw the
networks (where the benchmark trains its own), the splits, the exemplars, and all else. Rows of earlier runs that a run
does not make again stay in the table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.cloning_scenarios import Scenario, read_scenario
from benchmarks.cloning_table import Row, Strengths, line, read_rows, write_rows
from cloning.measures import measure_costs, num_bytes
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch, CloningSettings
from cloning.rivals import RIVALS
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from cloning.settings import CorrectionSettings, TaskSettings
from cloning.tuning import correction_samples, tune_cloned
from datamodules.correction import CorrectionData
from tuning.settings import TuningSettings
from zoo.chain.costs import Costs, count
from zoo.registry import Zoo
from zoo.storage.store import Store

NUM_EPOCHS = 10
"""Over the correction data in class-balanced batches; of ``joint`` over all its images, which makes more steps."""

DEFAULT = ("mnist5k_one_source", "mnist5k_two_sources", "mnist5k_resnet_convnext", "mnist5k_convnext_resnet")

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
"""Strengths that are tried. Cloning has none: choosing its keep ratio on validation was tried and gains nothing, since
the accuracy differs by less than half a point between 0.7 and 1."""

WITHOUT_EXEMPLARS = (
    "cloning_statistics",
    "ensemble_softmax",
    "ensemble_logits",
    "ensemble_calibrated",
    "ranpac",
    "joint",
)
"""Ways that the number of exemplars does not touch: measured once, in the table of none."""


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
        self.data = scenario.data(seed, f"dataset.augmentation={augmentation or 'null'}")
        self.kept, self.cloned = scenario.task(self.data.class_names)
        gained = tuple(name for names in self.cloned.values() for name in names)
        self.task = TaskSettings(self.kept, gained, scenario.target, tuple(self.cloned))
        classes = (*self.kept, *gained)
        self.everything = CorrectionData(self.data, classes=classes, cloned=classes, fraction=1.0, exemplars=0)
        self.problem: CloningProblem | None = None

    def cloning(self, name: str = "exemplars") -> Row:
        """Cloning with its defaults, as ``search.py`` and ``train.py`` do it; comes first, for it states the task."""
        correction = CorrectionSettings(name, exemplars=0 if name == "statistics" else self.exemplars)
        started = time.perf_counter()
        search = CloningSearch(
            self.zoo, self.data, CloningSettings(self.task, correction=correction), store=self.store, seed=self.seed
        )
        blueprint = search.run().blueprint
        network, weak = search.build(blueprint), search.correction(blueprint)
        if self.problem is None:
            self.everything.use_input(network.target.input)
            complete = correction_samples(self.everything, network.target.input)
            self.problem = CloningProblem(search.build(blueprint), weak, complete)
        with tempfile.TemporaryDirectory() as directory:
            tuning = TuningSettings(num_epochs=NUM_EPOCHS)
            network, _ = tune_cloned(network, weak, tuning, run_dir=Path(directory), seed=self.seed, test=False)
        shipped = search.statistics(network).num_bytes if name == "statistics" else 0
        method = "cloning_statistics" if name == "statistics" else "cloning"
        trial = Trial(network, time.perf_counter() - started, {})
        return self._row(method, [trial], blueprint.composition, more_bytes=shipped)

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


def compare(
    job: tuple[Scenario, int], *, exemplars: Sequence[int], methods: Sequence[str], augmentation: str | None, root: str
) -> list[Row]:
    """Some ways in one scenario with one seed."""
    scenario, seed = job
    torch.set_num_threads(1)
    zoo = scenario.read(seed, Store(root))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        for number in exemplars:
            contest = Contest(scenario, seed, number, augmentation, zoo, Store(directory))
            rows.append(contest.cloning())
            print(line(rows[-1]), flush=True)
            for method in methods:
                if method == "cloning" or (number and method in WITHOUT_EXEMPLARS):
                    continue
                is_own = method == "cloning_statistics"
                rows.append(contest.cloning("statistics") if is_own else contest.rival(method, TRIES[method]))
                print(line(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Runs the comparison; writes ``benchmarks/results/cloning.md`` and ``.json``, anew whenever a scenario ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--exemplars", type=int, nargs="+", default=[10, 0])
    parser.add_argument("--scenarios", nargs="+", default=DEFAULT, help="names in benchmarks/scenarios, or YAML files")
    parser.add_argument("--methods", nargs="+", choices=tuple(TRIES), default=tuple(TRIES))
    parser.add_argument(
        "--augmentation", choices=["affine"], help="distort the images; by default they stay as they are"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", default="runs/cache", help="where the networks that are trained first are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    path = arguments.results / ("cloning_augmented" if arguments.augmentation else "cloning")
    work = partial(
        compare,
        exemplars=arguments.exemplars,
        methods=arguments.methods,
        augmentation=arguments.augmentation,
        root=arguments.cache,
    )
    jobs = [(s, seed) for seed, s in product(range(arguments.seeds), map(read_scenario, arguments.scenarios))]
    rows = read_rows(path)
    for made in _made(work, jobs, arguments.processes):
        rows |= {row.key: row for row in made}
        write_rows(path, rows, tuple(TRIES))


def _made(work: partial, jobs: Sequence[tuple[Scenario, int]], processes: int) -> Iterable[list[Row]]:
    if processes == 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs)


if __name__ == "__main__":
    main()
