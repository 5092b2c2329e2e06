"""The jobs of cloning: from the configuration to search, cloned network, tuning and files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cloning.blueprint import CloningBlueprint, describe
from cloning.bundle import from_bundle, to_bundle
from cloning.diagram import cloned_diagram
from cloning.measures import Locality, added_costs, measure_costs, measure_latency, require_restored, size_share
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch
from cloning.result import CloningSearchResult
from cloning.settings import AddedBudget, CloningSettings, CorrectionSettings
from cloning.statistics_file import write_statistics
from cloning.telling import tell_data
from launch.components import Start, finish_training, inherited_rows, log_blueprint, tuning_options
from launch.job import Job, is_typed
from zoo.blueprint import Bundle, read_blueprint, read_bundle
from zoo.chain import Costs
from zoo.errors import UserError

log = logging.getLogger(__name__)


def search(job: Job) -> Mapping[str, Any]:
    """Selects, localises and inserts; no test image is seen.

    ``value`` is the validation accuracy of what was chosen, of several sources together, as the mean of that on the
    target's classes and that on the cloned ones.
    """
    search = _build_search(job)
    found = search.run()
    network = search.build(found.blueprint)
    localities = search.localities(network, "val")
    files = _report(job, found, network, localities, tuple(search.zoo))
    reached = found.reached
    return job.finish(
        {
            "value": reached.accuracy,
            "val_original_accuracy": reached.val_original,
            "val_cloned_accuracy": reached.val_cloned,
        },
        composition=found.blueprint.composition,
        selection=asdict(found.selection),
        chosen=[asdict(row) for row in found.chosen],
        **_measures(search, network, localities, found.digests),
        seconds=search.seconds,
        reused=found.reused,
        files=files,
    )


def train(job: Job) -> Mapping[str, Any]:
    """Tunes what the search of the same settings found, a blueprint or a bundle; ``value`` is validation accuracy."""
    from cloning.tuning import check_tuning, tune_cloned  # with Lightning

    check_tuning(job.config.tuning)
    _ = job.teacher  # refused before anything is searched
    search = _build_search(job)
    start = _compose(job, search)
    data = search.correction(start.blueprint)
    num_copies, options = job.config.correction.num_copies, tuning_options(job, job.run_dir, start)
    network, tuned = tune_cloned(start.network, data, job.config.tuning, num_copies=num_copies, **options)
    accuracies = search.accuracies(network)
    statistics = _write_statistics(job, search, network)
    return finish_training(
        job,
        start,
        data,
        tuned,
        to_bundle(network.cpu(), complete=job.config.complete_bundle),
        cloned_diagram(network, tuple(search.zoo)),
        metrics={
            "original_accuracy": accuracies.original,
            "cloned_accuracy": accuracies.cloned,
            "mean_group_accuracy": accuracies.mean,
        },
        accuracies=asdict(accuracies),
        **_measures(search, network, search.localities(network, "test"), start.blueprint.networks),
        **statistics,
        seconds=search.seconds,
    )


def _write_statistics(job: Job, search: CloningSearch, network: ClonedNetwork) -> dict[str, Any]:
    """The owners' sums as a file of their own, where F_c was solved from them."""
    if job.config.correction.name != "statistics":
        return {}
    statistics = search.statistics(network)
    if job.is_main:
        write_statistics(job.run_dir / "statistics.safetensors", statistics)
    return {"statistics": {"owners": list(statistics.owners), "num_bytes": statistics.num_bytes}}


def _build_search(job: Job) -> CloningSearch:
    config = job.config
    if config.budget.pareto or set(config.budget.limits()) - {"max_params", "max_macs"}:
        raise UserError(
            "budget of method=cloning: max_params and max_macs of what the clones add; the front is always written: "
            "leave min_params, min_macs and pareto out"
        )
    budget = AddedBudget(config.budget.max_params, config.budget.max_macs)
    settings = CloningSettings(config.task, config.localisation, config.insertion, config.correction, budget)
    return CloningSearch(job.zoo, job.data, settings, store=job.store, seed=config.seed, placement=job.placement)


def _compose(job: Job, search: CloningSearch) -> Start:
    """Returns what to tune: of a blueprint or bundle, or what the search finds."""
    given = job.blueprint
    if given is None:
        found = search.run()
        recipe, network = found.blueprint, search.build(found.blueprint)
        _report(job, found, network, search.localities(network, "val") if job.is_main else (), tuple(search.zoo))
        return Start.composed(network, describe(network, recipe.provenance), recipe)
    bundle = read_bundle(given.path, CloningBlueprint) if given.is_bundle else None
    recipe = bundle.blueprint if bundle else read_blueprint(given.path, CloningBlueprint)
    _require_classes(recipe, job)
    tell_data(search.correction(recipe))
    if bundle and _goes_on(recipe, job.config.correction):
        return _inherit(bundle, search)
    if bundle:
        log.info(
            "correction=%s without exemplars: what %s has learnt from images of the target's classes does not go on, "
            "its adapters and head are made anew",
            *(job.config.correction.name, given.path),
        )
        recipe = replace(recipe, provenance=tuple(step for step in recipe.provenance if step.step == "composed"))
    network = search.build(recipe)
    return Start.composed(network, describe(network, recipe.provenance), recipe)


def _goes_on(blueprint: CloningBlueprint, correction: CorrectionSettings) -> bool:
    """Whether what a network has learnt may be kept: not where no image of the target's classes may play a part."""
    keeps_none = set(blueprint.classes) <= set(blueprint.cloned_classes)
    return correction.exemplars > 0 or (correction.name == "exemplars" and keeps_none)


def _inherit(bundle: Bundle, search: CloningSearch) -> Start:
    """What a head has learnt goes on where it was learnt on the same images; else the whole of it is solved anew."""
    network = from_bundle(bundle, search.networks)
    rows = inherited_rows(bundle, network.classes, search.correction(bundle.blueprint), whole=True)
    return Start(network, describe(network, bundle.blueprint.provenance), bundle.digest, bundle.seen, rows)


def _require_classes(blueprint: CloningBlueprint, job: Job) -> None:
    """Refuses data that lacks classes of a cloned network, whose outputs are classes of its networks and no others."""
    asked = [*job.config.task.classes, *job.config.task.cloned]
    if is_typed("task.classes") and set(asked) != set(blueprint.classes):
        raise UserError(
            f"task.classes of {', '.join(asked)}: blueprint={job.blueprint.path} is a cloned network of the classes "
            f"{', '.join(blueprint.classes)}: leave task.classes out, or leave blueprint out to clone anew"
        )
    missing = [name for name in blueprint.classes if name not in job.data.class_names]
    if missing:
        raise UserError(
            f"blueprint={job.blueprint.path} is a cloned network, whose classes are those of its networks; "
            f"{job.data.name} has no {missing[0]!r} ({len(missing)} of {len(blueprint.classes)} are missing): give "
            "data of these classes (dataset=...), or leave blueprint out and type task.classes=[...] to clone anew"
        )


def _report(
    job: Job, found: CloningSearchResult, network: ClonedNetwork, localities: Sequence[Locality], zoo: tuple[str, ...]
) -> list[Path]:
    if not job.is_main:
        return []
    from cloning.report import write_report  # with matplotlib

    files = write_report(found, network, localities, job.run_dir, zoo)
    job.tracker.table("positions", files.table)
    job.tracker.figures(files.figures)
    log_blueprint(job, found.blueprint, [files.blueprint, files.table])
    return list(files.all)


def _measures(
    search: CloningSearch, network: ClonedNetwork, localities: Sequence[Locality], digests: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what is reported of search and training alike: locality, sizes, and that the zoo is as it was."""
    num_bytes, share = size_share(network)
    costs = measure_costs(network)
    added, data = sum(added_costs(network), Costs()), search.correction(describe(network))
    whole = sum((clone.source.chain.costs for clone in network.clones), Costs())
    return {
        "similarity": [asdict(locality) for locality in localities],
        "num_bytes": num_bytes,
        "size_share": share,
        "num_parameters": costs.num_params,
        "macs": costs.macs,
        "added_parameters": added.num_params,
        "added_macs": added.macs,
        "added_macs_share": added.macs / max(1, whole.macs),
        "latency_ms": asdict(measure_latency(network)),
        "data": {**data.record, "digest": search.data.digest, "digest_covers": search.data.record["digest_covers"]},
        "digests": {"data": search.data.digest, **digests},
        "restored": require_restored(network.networks(), digests),
    }
