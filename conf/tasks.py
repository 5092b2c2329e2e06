"""From the checked configuration to the objects of a job: zoo, data, search, network, tuning; and to its files."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from conf.job import Job
from conf.schema import Config
from datamodules import ImageDataModule
from reassembly.network import AssembledNetwork, load, to_bundle
from reassembly.pipeline import Search, SearchResult
from reassembly.report import write_report
from reassembly.settings import SearchSettings
from tuning.fit import TuningResult, tune
from zoo.blueprint import ReassemblyBlueprint, read_blueprint
from zoo.bundle import BLUEPRINT_FILE, WEIGHTS_FILE, write_bundle
from zoo.costs import Costs, count
from zoo.errors import UserError
from zoo.registry import read_zoo

log = logging.getLogger(__name__)


def build_search(job: Job) -> Search:
    """Returns the search of a job: its zoo, data and settings, nothing of it run yet."""
    config = job.config
    settings = SearchSettings(
        similarity=config.similarity,
        partition=config.partition,
        budget=config.budget,
        proxy=config.proxy,
        adapter=config.adapter,
        finalists=config.finalists,
    )
    return Search(read_zoo(config.zoo), _build_data(config), settings, store=job.store, seed=config.seed)


def short_tuning(job: Job, search: Search) -> Callable[[ReassemblyBlueprint, int], float]:
    """Returns what decides between finalists: validation accuracy after a few epochs; no test image is seen."""

    def accuracy(blueprint: ReassemblyBlueprint, num_epochs: int) -> float:
        with tempfile.TemporaryDirectory() as directory:
            result = _tune(job, search, search.build(blueprint), Path(directory), num_epochs=num_epochs, test=False)
        return max(result.val_accuracies.values())

    return accuracy


def report_search(job: Job, search: Search, found: SearchResult) -> list[Path]:
    """Writes blueprint, table and figures of a search, and hands copies to the tracker."""
    if not job.is_main:
        return []
    files = write_report(found, search.settings, job.run_dir)
    job.tracker.table("candidates", files.table)
    job.tracker.figures(files.figures)
    job.tracker.artifact("blueprint", "blueprint", [files.blueprint, files.table])
    return list(files.all)


def compose(job: Job, search: Search) -> AssembledNetwork:
    """Returns the network to tune: of a blueprint or bundle, of a whole network of the zoo, or what the search finds.

    Raises:
        UserError: a path that is no blueprint, a network the zoo lacks.
    """
    config = job.config
    if config.blueprint is not None:
        path = Path(config.blueprint)
        if not path.exists():
            raise UserError(f"blueprint={path} does not exist: give a blueprint.yaml, or the directory of a bundle")
        if path.is_dir() and (path / WEIGHTS_FILE).exists():
            return load(path, search.zoo)
        return search.build(read_blueprint(path / BLUEPRINT_FILE if path.is_dir() else path))
    if config.method.name == "baseline":
        return search.build(search.whole_network(config.method.network))
    found = search.run(short_tuning(job, search))
    report_search(job, search, found)
    return search.build(found.blueprint)


def tune_network(job: Job, search: Search, network: AssembledNetwork) -> TuningResult:
    """Tunes a network in place with the settings of a job."""
    return _tune(job, search, network, job.run_dir)


def save_network(job: Job, search: Search, network: AssembledNetwork) -> list[Path]:
    """Writes the bundle of a tuned network, and hands a copy to the tracker."""
    if not job.is_main:
        return []
    directory = job.run_dir / "bundle"
    write_bundle(directory, to_bundle(network, search.chains, complete=job.config.tuning.mode == "full"))
    files = [directory / BLUEPRINT_FILE, directory / WEIGHTS_FILE]
    job.tracker.artifact("bundle", "model", files)
    return files


def network_costs(search: Search, network: AssembledNetwork) -> Costs:
    """Returns parameters and MACs per image of a composed network, counted on the whole."""
    return count(network, search.data.input.example())


def _tune(
    job: Job, search: Search, network: AssembledNetwork, run_dir: Path, *, test: bool = True, **changes: Any
) -> TuningResult:
    config = job.config
    search.data.use_input(search.zoo.entry(network.blueprint.blocks[0].network).input)
    return tune(
        network,
        search.data,
        dataclasses.replace(config.tuning, **changes),
        optimizer=config.optimizer,
        schedule=config.schedule,
        trainer=config.trainer,
        run_dir=run_dir,
        seed=config.seed,
        loggers=job.tracker.lightning_loggers() if run_dir == job.run_dir and job.is_main else (),
        resume=config.resume is not None and run_dir == job.run_dir,
        test=test,
    )


def _build_data(config: Config) -> ImageDataModule:
    data = instantiate(config.dataset, seed=config.seed)
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"dataset._target_={config.dataset.get('_target_')} made a {type(data).__name__}, no ImageDataModule"
        )
    return data
