"""Finds a composition of a zoo's blocks under a budget, or what to clone and where: ``python search.py --help``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deploy
from launch import interruption
from zoo import threads

if __name__ == "__main__":
    interruption.watch()  # before what is heavy: from here on Ctrl-C is told in one line
    threads.prepare()  # before torch is loaded

from launch.entry import application
from launch.schema import Config


@application("search")
def main(config: Config) -> Mapping[str, Any]:
    """Searches, and writes blueprint, table and figures; a sweep optimises the score of what was found."""
    from launch.job import open_job  # heavy, so only once the configuration has been found to be right
    from launch.methods import jobs_of

    jobs = jobs_of(config)
    with open_job(config, "search", lambda path: deploy.load(path)) as job:
        return job.completed or jobs.search(job)


if __name__ == "__main__":
    main()
