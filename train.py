"""Tunes a composed, a cloned or a whole network and measures it on the test split: ``python train.py --help``."""

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


@application("train")
def main(config: Config) -> Mapping[str, Any]:
    """Tunes what the same settings' search found, a blueprint or a network; a sweep optimises validation."""
    from launch.parent import with_parent

    return train(with_parent(config, train))


def train(config: Config) -> Mapping[str, Any]:
    """One training, without what may come before it."""
    from launch.job import open_job  # heavy, so only once the configuration has been found to be right
    from launch.methods import jobs_of

    jobs = jobs_of(config)
    with open_job(config, "train", lambda path: deploy.load(path)) as job:
        return job.completed or jobs.train(job)


if __name__ == "__main__":
    main()
