"""A chain of trainings: what a job's network is composed and tuned on first, in a run of its own that jobs share.

The parent's run directory is named by its settings, so that the jobs of a sweep over data sets, and a later command,
find it: a parent that is completed is taken as it is, one that was interrupted goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra import compose
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from launch import processes
from launch.errors import explain
from launch.schema import Config, ParentSettings
from zoo.errors import UserError
from zoo.storage.records import convert, to_plain
from zoo.storage.store import content_key

log = logging.getLogger(__name__)

_DONE = "HUOZI_PARENT"


def parent_config(config: Config) -> Config:
    """The configuration of the training on ``parent.dataset``: that of the job with the parent's own settings.

    Raises:
        UserError: One of these that does not exist or is out of its limits.
    """
    changed = {
        key: convert(
            type(getattr(config, key)), _merged(to_plain(getattr(config, key)), getattr(config.parent, key)), key
        )
        for key in ("tuning", "optimizer", "schedule")
    }
    place = {} if config.output_dir is None else {"runs_dir": str(Path(config.output_dir) / "parents")}
    dataset = dict(config.parent.dataset or {})
    return replace(
        config, **changed, **place, dataset=dataset, parent=ParentSettings(), output_dir=None, skip_completed=True
    )


def after_parent(config: Config) -> Config:
    """The configuration of the job that goes on from its parent: its blueprint is the parent's directory.

    Without a parent, and of what is resumed, it is the configuration itself.
    """
    from launch.job import run_directory  # heavy

    if config.parent.dataset is None or config.resume is not None:
        return config
    return replace(config, blueprint=str(run_directory(parent_config(config), "train")[0]))


def with_parent(config: Config, train: Callable[[Config], Mapping[str, Any]]) -> Config:
    """Trains the parent, unless that is done, and returns the configuration of the job that goes on from it.

    The job's own data is read first: what cannot be read is told before anything is trained.
    """
    job = after_parent(config)
    if job is config:
        return config
    from launch.inputs import read_inputs  # heavy
    from launch.run_directory import CHECKPOINTS, CONFIG, read_result, resumable_run
    from tuning.distributed import broadcast

    read_inputs(config, "train")
    parent, directory = parent_config(config), Path(job.blueprint or "")
    if os.environ.get(_DONE) != str(directory):  # else this process was started for the job itself
        with _alone(directory) if processes.is_main() else nullcontext():  # the others train along with it
            run_dir = resumable_run(directory)
            is_begun = (run_dir / CONFIG).is_file() and any((run_dir / CHECKPOINTS).glob("last.ckpt"))
            if is_begun and read_result(run_dir) is None:
                parent = replace(parent, resume=str(directory))
            log.info("first, on parent.dataset: %s", directory)
            train(parent)
            broadcast(None)  # nobody reads the parent's result before the main process has written it
        os.environ[_DONE] = str(directory)
        log.info("then, on %s:", config.dataset.get("name", "dataset"))
    return job


def check_data_of_all_jobs(command: str, jobs: Sequence[Sequence[str]]) -> None:
    """Reads the data of all jobs of a sweep, before the first of them trains a parent for all, and looks for weights.

    Args:
        command: ``search`` or ``train``.
        jobs: Their overrides.

    Raises:
        UserError: Data that cannot be read, files of weights that are not there; with the overrides of their job.
    """
    from launch.checks import check
    from launch.inputs import read_data
    from launch.zoos import configured_zoo
    from zoo.registry import require_files

    read: set[str] = set()
    for overrides in jobs:
        config = OmegaConf.to_object(compose(command, list(overrides)))
        assert isinstance(config, Config)
        if (key := content_key(config.dataset, config.zoo)) not in read:
            read.add(key)
            try:
                check(config, command)
                read_data(config)
                zoo = configured_zoo(config, keep=False)
                if zoo.leave_out == "never" and config.method.name == "reassembly" and config.blueprint is None:
                    require_files(zoo)  # the parent's search would, in every job
            except (UserError, InstantiationException) as error:
                raise UserError(f"{' '.join(overrides)}: {explain(error, ())}") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Waits for another job, of a sweep whose jobs run side by side, that is training the same parent."""
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another job that trains on parent.dataset")
        lock.acquire()
    except NotImplementedError:  # a file system without locks: the run's own directory tells of it
        log.debug("no lock in %s", directory.parent)
    try:
        yield
    finally:
        lock.release()


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in changes.items():
        is_group = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if is_group else value
    return merged
