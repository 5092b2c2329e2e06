"""Tunes a composed network or one of the zoo, and measures it on the test split: ``python train.py --help``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.app import application
from conf.schema import Config


@application("train")
def main(config: Config) -> Mapping[str, Any]:
    """Tunes what the same settings' search found, a blueprint or a single network; a sweep optimises test accuracy."""
    from conf import tasks  # heavy, so only once the configuration has been found to be right
    from conf.job import open_job

    with open_job(config, "train") as job:
        if job.completed:
            return job.completed
        search = tasks.build_search(job)
        network = tasks.compose(job, search)
        tuned = tasks.tune_network(job, search, network)
        files = tasks.save_network(job, search, network)
        costs = tasks.network_costs(search, network)
        return job.finish(
            {
                "value": tuned.test_accuracy,
                "test_accuracy": tuned.test_accuracy,
                "val_accuracy": tuned.val_accuracies[tuned.choice],
                "start_val_accuracy": tuned.val_accuracies["start"],
            },
            composition=network.blueprint.composition,
            choice=tuned.choice,
            val_accuracies=tuned.val_accuracies,
            num_parameters=costs.num_params,
            num_trained_parameters=tuned.num_trained_parameters,
            macs=costs.macs,
            seconds={**search.seconds, **tuned.seconds},
            digests={"data": search.data.digest, **network.blueprint.networks},
            files=files,
        )


if __name__ == "__main__":
    main()
