"""What the jobs of all methods are built of: data and tuning, out of the checked configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from datamodules import ImageDataModule
from launch.job import Job
from launch.schema import Config
from zoo.blueprint import BLUEPRINT_FILE, WEIGHTS_FILE, Bundle, write_bundle
from zoo.errors import UserError


def build_data(config: Config) -> ImageDataModule:
    """Returns the data module of a configuration."""
    data = instantiate(config.dataset, seed=config.seed)
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"dataset._target_={config.dataset.get('_target_')} made a {type(data).__name__}, no ImageDataModule"
        )
    return data


def tuning_options(job: Job, run_dir: Path) -> dict[str, Any]:
    """Returns the arguments of ``tuning.fit.tune`` that are the same for every network; only the job's own run logs."""
    config, is_own = job.config, run_dir == job.run_dir
    return {
        "optimizer": config.optimizer,
        "schedule": config.schedule,
        "trainer": config.trainer,
        "run_dir": run_dir,
        "seed": config.seed,
        "loggers": job.tracker.lightning_loggers() if is_own and job.is_main else (),
        "resume": config.resume is not None and is_own,
    }


def given_blueprint(config: Config) -> tuple[Path, bool] | None:
    """Returns the blueprint file or bundle directory of ``blueprint=...`` and whether it is a bundle.

    Raises:
        UserError: nothing is there.
    """
    if config.blueprint is None:
        return None
    path = Path(config.blueprint)
    if not path.exists():
        raise UserError(f"blueprint={path} does not exist: give a blueprint.yaml, or the directory of a bundle")
    if path.is_dir() and (path / WEIGHTS_FILE).exists():
        return path, True
    return (path / BLUEPRINT_FILE if path.is_dir() else path), False


def save_bundle(job: Job, bundle: Bundle) -> list[Path]:
    """Writes the bundle of a tuned network, and hands a copy to the tracker."""
    if not job.is_main:
        return []
    directory = job.run_dir / "bundle"
    write_bundle(directory, bundle)
    files = [directory / BLUEPRINT_FILE, directory / WEIGHTS_FILE]
    job.tracker.artifact("bundle", "model", files)
    return files
