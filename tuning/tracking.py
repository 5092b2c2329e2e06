"""Weights & Biases beside our own files: one run a job, opened and closed inside the job.

Our files (``result.json``, ``metrics.csv``, ``candidates.csv``, figures) are complete without it; W&B receives copies.
"""

from __future__ import annotations

import csv
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.storage.files import read_json, write_json

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)

_IDENTITY = "wandb_run.json"
FINISH_SECONDS = 600
"""That the end of a run waits for uploads, at most: what is not there then lies on the disk."""


class Tracker:
    """Where a job's metrics, tables, figures and artifacts go. Without W&B, only ``metrics.csv`` is written."""

    def __init__(self, run_dir: Path, run: Any = None, *, resume: bool = False) -> None:
        self.run_dir = run_dir
        self._run, self._resume = run, resume

    def lightning_loggers(self) -> list[Logger]:
        """Returns the loggers for a ``Trainer``: ``metrics.csv`` in the run directory, and W&B where it is on."""
        from tuning.metrics_file import MetricsFile  # with Lightning, which a search does without

        loggers: list[Logger] = [MetricsFile(self.run_dir / "metrics.csv", resume=self._resume)]
        if self._run is not None:
            from pytorch_lightning.loggers import WandbLogger

            loggers.append(WandbLogger(experiment=self._run, log_model=False))
        return loggers

    def summary(self, metrics: Mapping[str, Any]) -> None:
        """Writes final figures into the run's summary."""
        if self._run is not None:
            self._run.summary.update(dict(metrics))

    def table(self, name: str, path: Path) -> None:
        """Logs a CSV file as a table, such as the candidates of a search."""
        if self._run is not None:
            with path.open(newline="") as file:
                columns, *rows = csv.reader(file)
            self.rows(name, columns, rows)

    def rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def figures(self, paths: Sequence[Path]) -> None:
        """Logs image files under their stems."""
        if self._run is not None and paths:
            import wandb

            self._run.log({path.stem: wandb.Image(str(path)) for path in paths})

    def artifact(
        self,
        name: str,
        digest: str,
        paths: Sequence[Path],
        *,
        kind: str | None = None,
        inputs: Mapping[str, str] | None = None,
        **metadata: Any,
    ) -> None:
        """Logs files as one artifact that is named by its content, so that later runs find what they go on from.

        Args:
            name: What its name, ``NAME-DIGEST``, begins with.
            digest: Of its content.
            kind: Its type; ``name`` if not given.
            paths: Its files; none where it lies in the store of stage results, and W&B is told of it alone.
            inputs: What it was made of: name -> digest; kept in the metadata, which offline runs have, too.
            metadata: What else is told of it.
        """
        if self._run is None:
            return
        import wandb

        made_of = [_artifact_name(given, of) for given, of in (inputs or {}).items()]
        told = {**metadata, "digest": digest, "inputs": made_of}
        artifact = wandb.Artifact(_artifact_name(name, digest), type=kind or name, metadata=told)
        for path in paths:
            artifact.add_file(str(path))
        for given in made_of if not self._run.offline else ():
            try:
                self._run.use_artifact(f"{given}:latest")
            except Exception as error:  # noqa: BLE001 an input that no run has logged, or no network: the run goes on
                log.debug("W&B has no artifact %s: %s", given, error)
        self._run.log_artifact(artifact, aliases=["latest", self.run_dir.name])


@contextmanager
def tracking(
    logger: str,
    run_dir: Path,
    *,
    project: str,
    job_type: str,
    group: str | None,
    config: Mapping[str, Any],
    entity: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    resume: bool = False,
) -> Iterator[Tracker]:
    """Opens the job's tracker and closes it on the way out, with exit code 1 on failure.

    Args:
        logger: ``csv``, ``wandb`` or ``wandb_offline``.
        run_dir: the job's directory; W&B's own files go into ``run_dir/wandb``.
        group: W&B group, the name of the sweep for a multirun.
        config: the resolved configuration, given whole at the start since offline runs take it from there alone.
        entity: W&B user or team.
        name: Of the W&B run; that of the directory if not given.
        tags: Of the W&B run.
        notes: Of the W&B run.
        resume: continue the W&B run whose identity ``run_dir`` holds.

    A server that is not reached stops no run: it goes on offline, which is told, and ``wandb sync`` sends it later.

    Raises:
        UserError: ``wandb`` without a key to log in with, or what W&B refuses.
    """
    if logger == "csv":
        yield Tracker(run_dir, resume=resume)
        return
    import wandb

    offline = logger == "wandb_offline"
    if not (offline or os.environ.get("WANDB_MODE") in ("offline", "disabled") or _has_key()):
        raise UserError("logger=wandb found no W&B key: run `wandb login`, or type logger=wandb_offline")
    identity = run_dir / _IDENTITY
    earlier = read_json(identity) if resume and identity.exists() else None
    known = earlier.get("id") if isinstance(earlier, dict) else None
    limits = {"finish_timeout": FINISH_SECONDS} if "finish_timeout" in wandb.Settings.model_fields else {}
    options = {
        "project": project,
        "entity": entity,
        "name": name or run_dir.name,
        "tags": list(tags) or None,
        "notes": notes,
        "id": known,
        "job_type": job_type,
        "group": group,
        "config": dict(config),
        "dir": str(run_dir),
        "settings": wandb.Settings(silent=True, **limits),
        "reinit": "finish_previous",
    }
    try:
        run = wandb.init(mode="offline" if offline else None, resume="allow" if known else None, **options)
    except wandb.errors.UsageError as error:
        raise UserError(f"logger={logger}: W&B refuses this run: {str(error).splitlines()[0]}") from error
    except wandb.errors.CommError as error:
        told = str(error).splitlines()[0]
        log.warning(
            "W&B is not reached (%s): this run is kept offline; `wandb sync %s/wandb/*` sends it", told, run_dir
        )
        run = wandb.init(mode="offline", **options)
    run.define_metric("val/accuracy", summary="max")
    run.define_metric("val/loss", summary="min")
    write_json(identity, {"id": run.id, "group": group})
    try:
        yield Tracker(run_dir, run, resume=resume)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


def _has_key() -> bool:
    """Whether W&B has a key to log in with; no server is asked, and nobody in the terminal."""
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        return wandb.login(prompt=False, verify=False)
    return bool(wandb.api.api_key)  # of earlier releases


def _artifact_name(name: str, digest: str) -> str:
    return f"{name}-{digest.removeprefix('sha256:')[:12]}"  # W&B's names hold no colon
