"""Finds a composition of a zoo's blocks under a budget, without training: ``python search.py --help``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.app import application
from conf.schema import Config


@application("search")
def main(config: Config) -> Mapping[str, Any]:
    """Searches, and writes blueprint, table of candidates and figures; a sweep optimises the pick's score."""
    from conf import tasks  # heavy, so only once the configuration has been found to be right
    from conf.job import open_job

    with open_job(config, "search") as job:
        if job.completed:
            return job.completed
        search = tasks.build_search(job)
        found = search.run(tasks.short_tuning(job, search))
        files = tasks.report_search(job, search, found)
        pick, partition = found.candidates[0], found.partition
        return job.finish(
            {"value": pick.scores[config.proxy.name], **pick.scores, "num_candidates": len(found.candidates)},
            composition=pick.candidate.composition,
            num_parameters=pick.candidate.num_params,
            macs=pick.candidate.macs,
            partition={"objective": partition.objective, "upper_bound": partition.upper_bound, "gap": partition.gap},
            seconds=found.seconds,
            reused=found.reused,
            digests={"data": search.data.digest, **found.blueprint.networks},
            files=files,
        )


if __name__ == "__main__":
    main()
