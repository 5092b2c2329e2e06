"""What the jobs of all methods hand to tuning, and what they keep of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures.diagram import Diagram
from launch.inputs import resumed_identity
from launch.job import Job
from zoo.blueprint import BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE, Bundle, to_text, write_bundle
from zoo.interface import Interface, interface_to_plain
from zoo.storage.store import content_key


def tuning_options(job: Job, run_dir: Path, blueprint: Any) -> dict[str, Any]:
    """Returns the arguments of ``tuning.fit.tune`` that are the same for both methods; only the job's own run logs.

    Args:
        run_dir: where checkpoints go.
        blueprint: of the network to tune, which with the identity of the run is that of its checkpoints.
    """
    config, is_own = job.config, run_dir == job.run_dir
    return {
        "optimizer": config.optimizer,
        "schedule": config.schedule,
        "learnt": job.blueprint is not None and job.blueprint.is_bundle,
        "teacher": job.teacher,
        "trainer": config.trainer,
        "run_dir": run_dir,
        "seed": config.seed,
        "loggers": job.tracker.lightning_loggers() if is_own and job.is_main else (),
        "identity": {**resumed_identity(job.inputs.identity), "network": content_key(to_text(blueprint))},
        "resume": config.resume is not None and is_own,
    }


def save_bundle(job: Job, bundle: Bundle, classes: Sequence[str]) -> list[Path]:
    """Writes the bundle of a tuned network with its interface, and hands a copy to the tracker.

    Args:
        classes: names of the network's outputs in their order.
    """
    if not job.is_main:
        return []
    directory, dataset = job.run_dir / "bundle", job.config.dataset
    interface = Interface(
        job.data.evaluation_input,
        tuple(classes),
        background=dataset.get("background", "white"),
        white_level=dataset.get("white_level"),
        networks={name: job.zoo.entry(name) for name in bundle.blueprint.networks},
    )
    write_bundle(directory, replace(bundle, interface=interface_to_plain(interface)))
    files = [directory / name for name in (BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE)]
    job.tracker.artifact("bundle", "model", files)
    return files


def draw(job: Job, diagram: Diagram) -> list[Path]:
    """Draws the network of a job, and hands a copy to the tracker."""
    if not job.is_main:
        return []
    from figures.drawing import draw_network

    path = draw_network(job.run_dir / "drawing.png", diagram)
    job.tracker.figures([path])
    return [path]
