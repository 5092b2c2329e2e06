"""The jobs of reassembly and of its baseline: from the configuration to search, network, tuning and files."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.components import Start, finish_training, inherited_rows, log_blueprint, tuning_options
from launch.job import Job
from launch.run_directory import FINALISTS, remove
from reassembly.assembly import ScoredCandidate
from reassembly.diagram import composed_diagram
from reassembly.finalists import best_of_each_kind
from reassembly.network import home_reference, rebuild, to_bundle, use_rows
from reassembly.pipeline import Search
from reassembly.proxies import PROXIES
from reassembly.result import SearchResult
from reassembly.settings import SearchSettings
from zoo.blueprint import Bundle, HeadSpec, ReassemblyBlueprint, read_blueprint, read_bundle, to_text
from zoo.chain.costs import count
from zoo.digests import digest
from zoo.storage.files import ReportFiles
from zoo.storage.records import to_plain
from zoo.storage.reports import kept_report
from zoo.storage.store import StageResult, content_key

if TYPE_CHECKING:
    from tuning.fit import TuningResult

log = logging.getLogger(__name__)


def search(job: Job) -> Mapping[str, Any]:
    """Searches, and writes blueprint, table of candidates and figures; ``value`` is the pick's score."""
    _ = job.teacher  # refused before anything is searched
    search = _build_search(job)
    found = search.run(_short_tuning(job, search), job.config.tuning.num_epochs)
    files = _report(job, search, found)
    pick, partition = found.candidates[0], found.partition
    scores = {name: score for name, score in pick.scores.items() if math.isfinite(score)}
    return job.finish(
        {"value": pick.scores[job.config.proxy.name], **scores, "num_candidates": len(found.candidates)},
        composition=pick.candidate.composition,
        num_parameters=pick.candidate.num_params,
        macs=pick.candidate.macs,
        num_fitting=found.num_fitting,
        baselines={kind: _told(entry) for kind, entry in best_of_each_kind(found.candidates) if kind != "assembly"},
        prediction=None if found.prediction is None else dataclasses.asdict(found.prediction),
        partition={"objective": partition.objective, "upper_bound": partition.upper_bound, "gap": partition.gap},
        latency=[{**vars(check), "relative_error": check.relative_error} for check in found.latency],
        left_out=found.left_out,
        seconds=found.seconds,
        reused=found.reused,
        digests={"data": search.data.digest, **found.blueprint.networks},
        data=search.data.record,
        files=files,
        untold=("num_candidates", *(name for name in scores if name in PROXIES)),  # said before; controls are no result
    )


def train(job: Job) -> Mapping[str, Any]:
    """Tunes what the search of the same settings found, a blueprint or a network; ``value`` is validation accuracy."""
    _ = job.teacher  # refused before anything is searched
    search = _build_search(job)
    start = _compose(job, search)
    network = start.network
    tuned = _tune(job, search, start, job.run_dir)
    costs = count(network, search.data.input.example())
    return finish_training(
        job,
        start,
        search.data,
        tuned,
        to_bundle(network, search.chains, complete=job.config.complete_bundle or job.config.tuning.mode == "full"),
        composed_diagram(network.blueprint, search.chains, tuple(search.zoo)),
        num_parameters=costs.num_params,
        macs=costs.macs,
        digests={"data": search.data.digest, **network.blueprint.networks},
        data=search.data.record,
        seconds=search.seconds,
    )


def _build_search(job: Job) -> Search:
    config = job.config
    settings = SearchSettings(
        similarity=config.similarity,
        partition=config.partition,
        budget=config.budget,
        proxy=config.proxy,
        adapter=config.adapter,
        composition=config.composition,
        finalists=config.finalists,
        head=config.head,
        selection=config.selection,
        tuning_mode=config.tuning.mode,
    )
    common = {"store": job.store, "seed": config.seed, "placement": job.placement}
    if config.executor.name == "serial" or not job.is_main:  # who waits for the main process needs no workers
        return Search(job.zoo, job.data, settings, **common)
    from reassembly.distributed import DistributedSearch

    return DistributedSearch(job.zoo, job.data, settings, executor=config.executor, **common)


def _short_tuning(job: Job, search: Search) -> Callable[[ReassemblyBlueprint, int], float]:
    """Returns what decides between finalists: validation accuracy after a few epochs; no test image is seen.

    Its checkpoints lie below the run directory, where all processes of the job look for them.
    """

    def tuned(blueprint: ReassemblyBlueprint, num_epochs: int) -> float:
        directory = job.run_dir / FINALISTS / f"{content_key(to_text(blueprint))[:12]}-{num_epochs}"
        with _hushed():
            network = search.build(blueprint)
        has_seams = any(spec.initialisation != "identity" for spec in blueprint.adapters)  # others are at home as it is
        changes = {} if has_seams else {"warmup": "none"}
        start = Start.composed(network, network.blueprint, blueprint)
        with _hushed():
            result = _tune(job, search, start, directory, num_epochs=num_epochs, test=False, **changes)
        if job.is_main:  # all have read them: the last figure is measured over all processes
            remove(job.run_dir / FINALISTS)
        return max(result.val_accuracies.values())

    def accuracy(blueprint: ReassemblyBlueprint, num_epochs: int) -> float:
        if job.config.trainer.is_shared:  # whose processes tune together, or none does
            return tuned(blueprint, num_epochs)
        inputs = {
            "blueprint": to_text(blueprint),
            "num_epochs": num_epochs,
            **{
                name: told
                for name, told in job.inputs.identity.items()
                if re.split("[. ]", name)[0] in _OF_TUNING and name != "tuning.num_epochs"
            },
        }
        stored = job.store.fetch("finalists", inputs, lambda: StageResult(values=tuned(blueprint, num_epochs)))
        return stored.values

    return accuracy


@contextmanager
def _hushed() -> Iterator[None]:
    """Inside the ``with`` training and stitching say no more than warnings: a dozen short ones would bury the rest."""
    loggers = [logging.getLogger(name) for name in ("tuning", "datamodules", "reassembly.stitch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_OF_TUNING = frozenset(
    {"tuning", "optimizer", "schedule", "trainer", "dataset", "data", "seed", "similarity", "teacher", "code"}
)
"""First words of the parts of an identity that short tuning depends on, beside the blueprint."""


def _told(entry: ScoredCandidate) -> dict[str, Any]:
    """A candidate as ``result.json`` has it."""
    candidate = entry.candidate
    scores = {name: score for name, score in entry.scores.items() if math.isfinite(score)}
    costs = {"num_parameters": candidate.num_params, "macs": candidate.macs}
    return {"composition": candidate.composition, **costs, "scores": scores}


def _report(job: Job, search: Search, found: SearchResult) -> list[Path]:
    if not job.is_main:
        return []
    inputs = {
        "found": [to_text(found.blueprint), to_plain(found.candidates), to_plain(found.partition), found.num_fitting],
        "latency": to_plain(found.latency),
        "similarity": digest({"similarity": found.similarity}),
        "descriptions": to_plain(found.descriptions),
        "settings": search.settings,
    }

    def write(directory: Path) -> ReportFiles:
        from reassembly.report import write_report  # with matplotlib

        return write_report(found, search.settings, directory)

    files = kept_report(job.store, inputs, job.run_dir, write, "reassembly")
    job.tracker.table("candidates", files.table)
    job.tracker.figures(files.figures)
    log_blueprint(job, found.blueprint, [files.blueprint, files.table], _log_stages(job, search, found))
    return list(files.all)


def _log_stages(job: Job, search: Search, found: SearchResult) -> dict[str, str]:
    """Tells the tracker of features and partition, which lie in the store; the partition, as an input of others."""
    features = {}
    for name, description in found.descriptions.items():
        features[f"features-{name}"] = key = found.feature_keys[name]
        weights = {f"weights-{name}": description.digest}
        job.tracker.artifact(f"features-{name}", key, [], kind="features", inputs=weights, data=search.data.digest)
    partition, key = found.partition, content_key(to_plain(found.partition))
    told = {"objective": partition.objective, "upper_bound": partition.upper_bound, "gap": partition.gap}
    job.tracker.artifact("partition", key, [], inputs=features, **told)
    return {"partition": key}


def _compose(job: Job, search: Search) -> Start:
    """Returns what to tune: of a blueprint or bundle, a whole network of the zoo, or what the search finds.

    Its head is for the classes of the job's data, whatever a blueprint or bundle was for.
    """
    given, method = job.blueprint, job.config.method
    if given and method.name == "baseline":
        log.info("method=baseline chooses no network: blueprint=%s is tuned", given.path)
    if given and given.is_bundle:
        return _inherit(read_bundle(given.path), search)
    if given:
        recipe = read_blueprint(given.path)
        asked = job.config.head.inputs  # auto leaves it to the recipe
        inputs = recipe.head.inputs if asked == "auto" else asked
        head = HeadSpec(classes=search.data.class_names, inputs=inputs)
        if recipe.head.classes != head.classes:
            log.info("head: new, for the %d classes of %s", search.data.num_classes, search.data.name)
        network = search.build(dataclasses.replace(recipe, head=head))
        return Start.composed(network, network.blueprint, recipe)
    if method.name == "baseline":
        recipe = search.whole_network(method.network, method.select)
    else:
        found = search.run(_short_tuning(job, search), job.config.tuning.num_epochs)
        _report(job, search, found)
        recipe = found.blueprint
    network = search.build(recipe)
    return Start.composed(network, network.blueprint, recipe)


def _inherit(bundle: Bundle, search: Search) -> Start:
    network = rebuild(bundle, search.zoo)
    rows = inherited_rows(bundle, network.class_names, search.data)
    use_rows(network, rows, seed=search.seed)
    return Start(network, network.blueprint, bundle.digest, bundle.seen, rows)


def _tune(job: Job, search: Search, start: Start, run_dir: Path, *, test: bool = True, **changes: Any) -> TuningResult:
    from tuning.fit import tune  # with Lightning, which a search without finalists does without

    search.data.use_input(search.zoo.entry(start.blueprint.blocks[0].network).input)
    settings = dataclasses.replace(job.config.tuning, **changes)
    home = home_reference(start.network, search.chains, search.zoo) if settings.warmup != "none" else None
    return tune(start.network, search.data, settings, test=test, home=home, **tuning_options(job, run_dir, start))
