"""What the jobs of both methods share: what tuning begins with, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import ImageDataModule
from figures.diagram import Diagram
from launch.inputs import resumed_identity
from launch.job import Job
from launch.run_directory import BUNDLE
from tuning.heads import HeadRows, match_rows
from zoo.blueprint import (
    BLUEPRINT_FILE,
    INTERFACE_FILE,
    WEIGHTS_FILE,
    Bundle,
    Provenance,
    SeenImages,
    text_digest,
    to_text,
    write_bundle,
)
from zoo.interface import Interface, interface_to_plain
from zoo.storage.records import to_plain
from zoo.storage.store import content_key

if TYPE_CHECKING:
    from tuning.fit import TuningResult

log = logging.getLogger(__name__)

_MAX_CHANCE_SHARE = 0.005
"""Of images that two splits may share without being told: data sets hold a few images twice."""


@dataclass(frozen=True)
class Start:
    """What tuning begins with.

    Attributes:
        network: Its adapters and head as they are to begin.
        blueprint: Of the network, with the steps by which it came about.
        parent: Digest of the blueprint or bundle that it is built from.
        seen: What it was tuned on before.
        rows: Of a bundle's head, what is kept; None for a network that was not tuned before.
    """

    network: Any
    blueprint: Any
    parent: str
    seen: tuple[SeenImages, ...] = ()
    rows: HeadRows | None = None

    @classmethod
    def composed(cls, network: Any, blueprint: Any, recipe: Any) -> Start:
        """Of a network that is built from a recipe, given or found."""
        return cls(network, blueprint, text_digest(recipe))


def inherited_rows(
    bundle: Bundle, classes: Sequence[str] | None, data: ImageDataModule, *, whole: bool = False
) -> HeadRows:
    """What of a bundle's head serves for the classes of the data; it is told in one line.

    Args:
        bundle: Of the network.
        classes: Of the rows of its head; None where only their number is known.
        data: What the network is to be tuned on.
        whole: Keep all rows as they are, or none.
    """
    learnt = bundle.seen[-1].classes if bundle.seen else {}
    rows = match_rows(classes, data.class_names, learnt, data.seen.classes)
    if whole and not rows.is_whole:
        rows = replace(rows, kept={})
    record = "" if bundle.seen else "; the bundle does not say which images it was tuned on"
    log.info("head for the %d classes of %s: %s%s", data.num_classes, data.name, rows, record)
    return rows


def tuning_options(job: Job, run_dir: Path, start: Start) -> dict[str, Any]:
    """Returns the arguments of ``tuning.fit.tune`` that are the same for both methods; only the job's own run logs.

    Args:
        run_dir: where checkpoints go.
        start: what is tuned; its blueprint is, with the identity of the run, that of the checkpoints.
    """
    config, is_own = job.config, run_dir == job.run_dir
    are_learnt = start.rows is not None and start.rows.are_learnt
    return {
        "optimizer": config.optimizer,
        "schedule": config.schedule,
        "learnt": are_learnt,
        "learnt_rows": tuple(start.rows.kept) if start.rows is not None and not are_learnt else (),
        "teacher": job.teacher,
        "trainer": config.trainer,
        "run_dir": run_dir,
        "seed": config.seed,
        "loggers": job.tracker.lightning_loggers() if is_own and job.is_main else (),
        "identity": {**resumed_identity(job.inputs.identity), "network": content_key(to_text(start.blueprint))},
        "resume": config.resume is not None and is_own,
    }


def tell_seen_images(start: Start, data: ImageDataModule) -> dict[str, float]:
    """Returns about which share of validation and test images the network was tuned on before; tells where any was."""
    shares = {}
    for split in ("val", "test") if start.seen else ():
        keys = data.keys(split)
        shares[split] = max(seen.share_of(keys) for seen in start.seen)
        if shares[split] > _MAX_CHANCE_SHARE:
            log.warning(
                "about %.0f %% of the %s images of %s are images that the network was tuned on before: figures of this "
                "split are not of unseen images; give the seed and sizes of that training (its provenance names them)",
                *(100 * shares[split], {"val": "validation"}.get(split, split), data.name),
            )
    return shares


def finish_training(
    job: Job,
    start: Start,
    tuned_on: ImageDataModule,
    tuned: TuningResult,
    bundle: Bundle,
    diagram: Diagram,
    *,
    metrics: Mapping[str, float | None] | None = None,
    seconds: Mapping[str, float],
    **result: Any,
) -> Mapping[str, Any]:
    """Writes the bundle of a tuned network with where it comes from, then the result; returns the job's metrics.

    Args:
        start: What tuning began with.
        tuned_on: The data.
        tuned: What tuning gave; ``value`` is its validation accuracy.
        bundle: Of the network.
        diagram: To draw it by.
        metrics: Of the method, besides those of tuning.
        seconds: Of the stages before.
        result: What else ``result.json`` is to hold.
    """
    val_accuracy = tuned.val_accuracies[tuned.choice]
    step = Provenance(
        "tuned",
        data=tuned_on.name,
        data_digest=tuned_on.digest,
        seed=job.config.seed,
        parent=start.parent,
        mode=job.config.tuning.mode,
        num_epochs=tuned.epochs,
        val_accuracy=val_accuracy,
    )
    provenance = (*start.blueprint.provenance, step)
    bundle = replace(
        bundle, blueprint=replace(bundle.blueprint, provenance=provenance), seen=(*start.seen, tuned_on.seen)
    )
    top5 = tuned.outcomes.top5_accuracy if tuned.outcomes else None
    return job.finish(
        {
            "value": val_accuracy,
            "test_accuracy": tuned.test_accuracy,
            **({"test_top5_accuracy": top5} if top5 is not None else {}),
            **(metrics or {}),
            "val_accuracy": val_accuracy,
            "start_val_accuracy": tuned.val_accuracies["start"],
        },
        composition=bundle.blueprint.composition,
        choice=tuned.choice,
        val_accuracies=tuned.val_accuracies,
        parameter_groups=tuned.parameter_groups,
        num_trained_parameters=tuned.num_trained_parameters,
        num_head_images=tuned.num_head_images,
        epochs=tuned.epochs,
        class_accuracies=tuned.outcomes.class_accuracies(tuned_on.class_names) if tuned.outcomes else None,
        **result,
        provenance=to_plain(provenance),
        bundle_digest=bundle.digest,
        seen_shares=tell_seen_images(start, tuned_on),
        seconds={**seconds, **tuned.seconds},
        files=[
            *_save_bundle(job, bundle, tuned_on.class_names),
            *_draw(job, diagram),
            *_report_training(job, tuned, tuned_on.class_names),
        ],
    )


def _save_bundle(job: Job, bundle: Bundle, classes: Sequence[str]) -> list[Path]:
    """Writes a bundle with its interface, whose outputs are of these classes, and hands a copy to the tracker."""
    if not job.is_main:
        return []
    directory, dataset = job.run_dir / BUNDLE, job.config.dataset
    interface = Interface(
        job.data.evaluation_input,
        tuple(classes),
        background=dataset.get("background", "white"),
        white_level=dataset.get("white_level"),
        networks={name: job.zoo.entry(name) for name in bundle.blueprint.networks},
    )
    write_bundle(directory, replace(bundle, interface=interface_to_plain(interface)))
    files = [directory / name for name in (BLUEPRINT_FILE, INTERFACE_FILE, WEIGHTS_FILE)]
    recipe = bundle.blueprint
    inputs = {**_zoo_inputs(recipe.networks), "blueprint": content_key(to_text(replace(recipe, provenance=())))}
    if recipe.provenance and (parent := recipe.provenance[-1].parent):
        inputs["bundle"] = parent
    job.tracker.artifact("bundle", bundle.digest, files, inputs=inputs, composition=recipe.composition)
    return files


def log_blueprint(job: Job, blueprint: Any, paths: Sequence[Path], stages: Mapping[str, str] | None = None) -> None:
    """Hands a copy of what a search found to the tracker, named by the recipe whoever found it.

    Args:
        blueprint: What was found.
        paths: Its files.
        stages: Artifacts that it was found by, besides the networks' weights.
    """
    digest = content_key(to_text(replace(blueprint, provenance=())))
    inputs, composition = {**_zoo_inputs(blueprint.networks), **(stages or {})}, blueprint.composition
    job.tracker.artifact("blueprint", digest, paths, inputs=inputs, composition=composition, data=job.data.digest)


def _zoo_inputs(networks: Mapping[str, str]) -> dict[str, str]:
    return {f"weights-{name}": digest for name, digest in networks.items()}


def _draw(job: Job, diagram: Diagram) -> list[Path]:
    """Draws the network of a job, and hands a copy to the tracker."""
    if not job.is_main:
        return []
    from figures.drawing import draw_network

    path = draw_network(job.run_dir / "drawing.png", diagram)
    job.tracker.figures([path])
    return [path]


def _report_training(job: Job, tuned: TuningResult, classes: Sequence[str]) -> list[Path]:
    """Writes curves and confusions, and hands copies to the tracker."""
    if not job.is_main:
        return []
    from tuning.report import write_report

    files = write_report(tuned, classes, job.run_dir)
    job.tracker.figures(files.figures)
    if files.table is not None:
        job.tracker.table("confusion", files.table)
    if tuned.outcomes is not None:
        job.tracker.rows("class_accuracies", ["class", "accuracy"], [*tuned.outcomes.class_accuracies(classes).items()])
    return [*files.figures, *([files.table] if files.table is not None else [])]
