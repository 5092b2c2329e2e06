"""One job: its directory, log, result file and tracker, opened before and closed after whatever happens."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from launch.errors import is_bad_input
from launch.schema import Config
from launch.sweep import sweep_name
from tuning.tracking import Tracker, tracking
from zoo.storage.files import write_json, write_yaml
from zoo.storage.store import Store, content_key

log = logging.getLogger(__name__)

CONFIG, RESULT, LOG = "config.yaml", "result.json", "job.log"
# What changes no result does not change the name of its directory either.
_ELSEWHERE = ("output_dir", "runs_dir", "cache", "logger", "trainer", "resume", "skip_completed")


@dataclass(frozen=True)
class Job:
    """What an entry script works with.

    Attributes:
        run_dir: where all files of the job go.
        tracker: W&B, or nothing.
        store: of stage results.
        is_main: False in the further processes of a multi-GPU run, which write nothing.
        completed: the metrics of an earlier identical job, where ``skip_completed`` takes them; else ``None``.
    """

    config: Config
    run_dir: Path
    tracker: Tracker
    store: Store
    is_main: bool
    completed: Mapping[str, Any] | None = None

    def finish(self, metrics: Mapping[str, Any], *, files: Sequence[Path], **result: Any) -> Mapping[str, Any]:
        """Writes ``result.json``, says where the job's files lie, and returns the metrics."""
        if self.is_main:
            content = {
                "status": "completed",
                "metrics": metrics,
                **result,
                "versions": _versions(),
                "settings": asdict(self.config),
            }
            write_json(self.run_dir / RESULT, content)
            self.tracker.summary(metrics)
            log.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if key != "value"))
            for path in (*files, self.run_dir / RESULT):
                log.info("%s", path)
        return metrics


def run_directory(config: Config, command: str) -> Path:
    """Returns the directory of a job: ``output_dir``, or one named by the settings, the same for the same settings."""
    if config.resume:
        return Path(config.resume)
    if config.output_dir:
        hydra = HydraConfig.get()
        return Path(config.output_dir) / (str(hydra.job.num) if hydra.mode == RunMode.MULTIRUN else "")
    settings = {key: value for key, value in asdict(config).items() if key not in {*_ELSEWHERE, *config.unread}}
    what = [
        config.method.name,
        config.dataset.get("name", "data"),
        *([config.tuning.mode] if command == "train" else []),
    ]
    return Path(config.runs_dir) / command / f"{'-'.join(what)}-seed{config.seed}-{content_key(settings)[:8]}"


@contextmanager
def open_job(config: Config, command: str) -> Iterator[Job]:
    """Opens the job of a configuration.

    On bad input a directory that this job made is removed again, so that nothing half-written stays; on any other
    failure it keeps the log with the traceback, and a ``result.json`` with ``status: failed``.
    """
    run_dir, is_main = run_directory(config, command), rank_zero_only.rank == 0
    store = Store(config.cache.root, rebuild_damaged=config.cache.rebuild_damaged)
    if not is_main:
        logging.getLogger().setLevel(logging.WARNING)  # the main process tells it once
        yield Job(config, run_dir, Tracker(run_dir), store, is_main)
        return
    if config.skip_completed and (completed := _completed(run_dir)):
        log.info("completed before: %s", run_dir)
        yield Job(config, run_dir, Tracker(run_dir), store, is_main, completed)
        return
    is_new = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    with _log_file(run_dir / LOG, append=config.resume is not None):
        try:
            settings = asdict(config)
            (run_dir / RESULT).unlink(missing_ok=True)  # a result must not outlive the files it speaks of
            if config.resume is None:
                write_yaml(run_dir / CONFIG, settings)
            with tracking(
                config.logger.name,
                run_dir,
                project=config.logger.project,
                job_type=command,
                group=sweep_name(command) if HydraConfig.get().mode == RunMode.MULTIRUN else None,
                config=settings,
                resume=config.resume is not None,
            ) as tracker:
                yield Job(config, run_dir, tracker, store, is_main)
        except BaseException as error:
            log.debug("the job failed", exc_info=True)
            if is_bad_input(error) and is_new and config.logger.name == "csv":
                shutil.rmtree(run_dir)
            elif config.resume is None:
                write_json(run_dir / RESULT, {"status": "failed", "error": f"{type(error).__name__}: {error}"})
            raise


@contextmanager
def _log_file(path: Path, *, append: bool) -> Iterator[None]:
    """Copies the log to a file, debug messages of ours and tracebacks included."""
    handler = logging.FileHandler(path, mode="a" if append else "w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _completed(run_dir: Path) -> Mapping[str, Any] | None:
    path = run_dir / RESULT
    result = json.loads(path.read_text()) if path.exists() else {}
    return result["metrics"] if result.get("status") == "completed" else None


def _versions() -> dict[str, str]:
    packages = ("huozi", "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
