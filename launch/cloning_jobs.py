"""The jobs of cloning: from the configuration to search, cloned network, tuning and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloning.blueprint import CloningBlueprint, describe
from cloning.bundle import from_bundle, to_bundle
from cloning.diagram import cloned_diagram
from cloning.measures import mean, measure_costs, require_restored, size_share
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch, CloningSearchResult, CloningSettings
from launch.components import draw, save_bundle, tuning_options
from launch.job import Job
from zoo.blueprint import read_blueprint, read_bundle


def search(job: Job) -> Mapping[str, Any]:
    """Selects, localises and inserts; no test image is seen.

    ``value`` is the validation accuracy after the short tuning at the positions chosen, as the mean of that on
    the target's classes and that on the cloned ones.
    """
    search = _build_search(job)
    found = search.run()
    network = search.build(found.blueprint)
    files = _report(job, search, found, network)
    chosen = {(clone.network, clone.position) for clone in found.blueprint.clones}
    rows = [row for row in found.positions if (row.source, row.position) in chosen]
    original, cloned = (mean([getattr(row, name) for row in rows]) for name in ("val_original", "val_cloned"))
    return job.finish(
        {"value": (original + cloned) / 2, "val_original_accuracy": original, "val_cloned_accuracy": cloned},
        composition=found.blueprint.composition,
        selection=asdict(found.selection),
        **_measures(search, network, "val", found.digests),
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
    network = _compose(job, search)
    data, digests = search.correction(describe(network)), describe(network).networks
    options = tuning_options(job, job.run_dir, describe(network))
    network, tuned = tune_cloned(network, data, job.config.tuning, **options)
    files = save_bundle(job, to_bundle(network, complete=job.config.complete_bundle), network.classes)
    files += draw(job, cloned_diagram(network, tuple(search.zoo)))
    accuracies = search.accuracies(network)
    return job.finish(
        {
            "value": tuned.val_accuracies[tuned.choice],
            "test_accuracy": tuned.test_accuracy,
            "original_accuracy": accuracies.original,
            "cloned_accuracy": accuracies.cloned,
            "mean_accuracy": accuracies.mean,
            "val_accuracy": tuned.val_accuracies[tuned.choice],
            "start_val_accuracy": tuned.val_accuracies["start"],
        },
        composition=describe(network).composition,
        choice=tuned.choice,
        val_accuracies=tuned.val_accuracies,
        parameter_groups=tuned.parameter_groups,
        accuracies=asdict(accuracies),
        num_trained_parameters=tuned.num_trained_parameters,
        **_measures(search, network, "test", digests),
        seconds={**search.seconds, **tuned.seconds},
        files=files,
    )


def _build_search(job: Job) -> CloningSearch:
    config = job.config
    settings = CloningSettings(config.task, config.localisation, config.insertion, config.correction)
    return CloningSearch(job.zoo, job.data, settings, store=job.store, seed=config.seed)


def _compose(job: Job, search: CloningSearch) -> ClonedNetwork:
    """Returns the network to tune: of a blueprint or bundle, or what the search finds."""
    if given := job.blueprint:
        if given.is_bundle:
            return from_bundle(read_bundle(given.path, CloningBlueprint), search.networks)
        return search.build(read_blueprint(given.path, CloningBlueprint))
    found = search.run()
    network = search.build(found.blueprint)
    _report(job, search, found, network)
    return network


def _report(job: Job, search: CloningSearch, found: CloningSearchResult, network: ClonedNetwork) -> list[Path]:
    if not job.is_main:
        return []
    from cloning.report import write_report  # with matplotlib

    files = write_report(found, network, search.localities(network, "val"), job.run_dir, tuple(search.zoo))
    job.tracker.table("positions", files.table)
    job.tracker.figures(files.figures)
    job.tracker.artifact("blueprint", "blueprint", [files.blueprint, files.table])
    return list(files.all)


def _measures(search: CloningSearch, network: ClonedNetwork, split: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """Returns what is reported of search and training alike: locality, sizes, and that the zoo is as it was."""
    num_bytes, share = size_share(network)
    costs = measure_costs(network)
    return {
        "similarity": [asdict(locality) for locality in search.localities(network, split)],
        "num_bytes": num_bytes,
        "size_share": share,
        "num_parameters": costs.num_params,
        "macs": costs.macs,
        "data": search.data.record,
        "digests": {"data": search.data.digest, **digests},
        "restored": require_restored(network.networks(), digests),
    }
