"""One job: its directory, log, result file and tracker, opened before and closed after whatever happens."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from datamodules import ImageDataModule, Manifest, difference
from launch import interruption, processes
from launch.errors import is_bad_input
from launch.inputs import (
    GivenBlueprint,
    Inputs,
    differences,
    other_settings,
    read_inputs,
    result_settings,
    resumed_identity,
)
from launch.job_log import JobLog
from launch.run_directory import (
    CONFIG,
    FRONT,
    IDENTITY,
    LOG,
    MANIFEST,
    RESULT,
    clear,
    describe_damage,
    describe_loss,
    new_run,
    owned,
    publish,
    read_result,
    resumable_run,
    settle,
)
from launch.schema import Config
from launch.sweep import is_multirun, sweep_name
from tuning.tracking import Tracker, tracking
from zoo.devices import Placement, find_device
from zoo.errors import UserError
from zoo.registry import Zoo
from zoo.storage.files import read_json, write_bytes, write_json, write_yaml
from zoo.storage.sources import installed_version
from zoo.storage.store import Store, content_key

if TYPE_CHECKING:
    from tuning.reference import Reference

OpenResult = Callable[[str], Any]
"""Opens a run or a bundle by its path, as ``deploy.load`` does, which stands above this package."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What an entry script works with.

    Attributes:
        directory: of the job, as the user knows it.
        run_dir: where the job's files are written; another one below ``directory`` until a completed run is replaced.
        inputs: data, zoo, blueprint, and the identity of the run.
        tracker: W&B, or nothing.
        store: of stage results.
        is_main: False in the further processes of a multi-GPU run, which write nothing.
        open_result: opens what ``tuning.teacher`` names.
        completed: the metrics of an earlier identical job, where there is nothing left to do; else ``None``.
    """

    config: Config
    directory: Path
    run_dir: Path
    inputs: Inputs
    tracker: Tracker
    store: Store
    is_main: bool
    open_result: OpenResult
    completed: Mapping[str, Any] | None = None

    @property
    def data(self) -> ImageDataModule:
        """The data module."""
        return self.inputs.data

    @property
    def zoo(self) -> Zoo:
        """The zoo."""
        return self.inputs.zoo

    @property
    def blueprint(self) -> GivenBlueprint | None:
        """The blueprint or bundle of ``blueprint=...``."""
        return self.inputs.blueprint

    @property
    def placement(self) -> Placement:
        """Where the search computes."""
        return Placement(find_device(self.config.device), self.config.precision)

    @cached_property
    def teacher(self) -> Reference | None:
        """The network of ``tuning.teacher=...``."""
        from launch.teacher import open_teacher  # heavy

        cloned = self.config.task.classes if self.config.method.name == "cloning" else []
        return open_teacher(self.config, self.zoo, cloned or self.data.class_names, self.open_result)

    def finish(
        self, metrics: Mapping[str, Any], *, files: Sequence[Path], untold: Collection[str] = (), **result: Any
    ) -> Mapping[str, Any]:
        """Writes ``result.json``, tells metrics and where the job's files lie, and returns the metrics.

        Args:
            metrics: What the job is compared by; ``value`` is what a sweeper optimises.
            files: That it wrote.
            untold: Metrics that are kept and not printed, such as controls.
            result: What else ``result.json`` is to hold.
        """
        if self.is_main:
            content = {
                "status": "completed",
                "metrics": metrics,
                **result,
                "versions": _versions(),
                "settings": asdict(replace(self.config, resume=None)),
            }
            write_json(self.run_dir / RESULT, content)
            costs = ("composition", "num_parameters", "macs", "num_bytes")
            self.tracker.summary({**metrics, **{name: result[name] for name in costs if name in result}})
            told = [_told(key, value) for key, value in metrics.items() if key not in ("value", *untold)]
            if told:
                log.info("%s", ", ".join(told))
            figures = [path.stem for path in files if path.suffix == ".png"]
            front = [path for path in files if path.parent.name == FRONT]
            others = [path for path in files if path.suffix not in (".png", ".svg") and path not in front]
            for path in (*others, self.run_dir / RESULT):
                log.info("%s", self.directory / path.relative_to(self.run_dir))
            if front:
                log.info("%s/*.yaml: %d compositions that no other beats", self.directory / FRONT, len(front))
            if figures:
                log.info("%s/*.png and *.svg: %s", self.directory, ", ".join(figures))
        return metrics


def run_directory(config: Config, command: str) -> tuple[Path, str]:
    """Returns the directory of a job and the setting that names it.

    That is ``resume`` or ``output_dir``, or a directory named by the settings, the same for the same settings.
    """
    if config.resume:
        return Path(config.resume), "resume"
    if config.output_dir:
        return Path(config.output_dir) / (str(HydraConfig.get().job.num) if is_multirun() else ""), "output_dir"
    what = [
        config.method.name,
        config.dataset.get("name", "data"),
        *([config.tuning.mode] if command == "train" else []),
    ]
    name = f"{'-'.join(what)}-seed{config.seed}-{content_key(result_settings(config))[:8]}"
    return Path(config.runs_dir) / command / name, "runs_dir"


def is_typed(key: str) -> bool:
    """Whether the command line, or a sweep's job, gives the key itself."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    return any(word.lstrip("+").partition("=")[0] == key for word in words)


@contextmanager
def open_job(config: Config, command: str, open_result: OpenResult) -> Iterator[Job]:
    """Opens the job of a configuration in its directory, see ``launch.run_directory``.

    On bad input what this job has made is removed again, so that nothing half-written stays; on any other failure the
    log keeps the traceback, and ``result.json`` says ``failed`` or ``interrupted``. An earlier result stays whole.

    Raises:
        UserError: the directory belongs to another job, or what is resumed is not of these settings, data or weights.
    """
    (directory, key), is_main = run_directory(config, command), processes.is_main()
    store = Store(config.cache.root, rebuild_damaged=config.cache.rebuild_damaged)
    find_run = resumable_run if config.resume else new_run
    if not is_main:
        interruption.advise(_advice(command, directory))
        run_dir, inputs = find_run(directory), read_inputs(config, command)
        completed = _completed(config, directory, run_dir, inputs)  # as the main process finds it
        yield Job(config, directory, run_dir, inputs, Tracker(run_dir), store, is_main, open_result, completed)
        return
    interruption.advise(interruption.AGAIN)
    with owned(directory, key) as is_new, JobLog(log) as log_file:
        try:
            settle(directory)
            run_dir, inputs = find_run(directory), read_inputs(config, command)
            if completed := _completed(config, directory, run_dir, inputs):
                log.info("completed before: %s", directory)
                yield Job(config, directory, run_dir, inputs, Tracker(run_dir), store, is_main, open_result, completed)
                return
            if config.resume is None:
                _tell_replaced(directory, inputs)
                _begin(config, directory, run_dir, inputs)
            log_file.open(run_dir / LOG, append=config.resume is not None)
        except BaseException as error:
            if is_new:
                shutil.rmtree(directory)
            if isinstance(error, OSError):
                raise _with_key(error, {key: directory, "cache.root": store.root}) from error
            raise
        interruption.advise(_advice(command, directory))
        try:
            with tracking(
                config.logger.name,
                run_dir,
                project=config.logger.project,
                job_type=command,
                group=config.logger.group or sweep_name(),
                config=asdict(config),
                entity=config.logger.entity,
                name=config.logger.run_name,
                tags=config.logger.tags,
                notes=config.logger.notes,
                resume=config.resume is not None,
            ) as tracker:
                yield Job(config, directory, run_dir, inputs, tracker, store, is_main, open_result)
        except BaseException as error:
            log.debug("the job failed", exc_info=True)
            is_own = is_new or run_dir != directory
            if is_bad_input(error) and is_own and config.resume is None and config.logger.name == "csv":
                shutil.rmtree(run_dir)
            elif read_result(run_dir) is None:
                _write_failure(run_dir, error)
            if isinstance(error, OSError):
                raise _with_key(error, {key: directory, "cache.root": store.root}) from error
            raise
        finally:
            if run_dir != directory and read_result(run_dir):
                publish(directory)
        interruption.advise(f"the job was completed before: {directory}")


def _tell_replaced(directory: Path, inputs: Inputs) -> None:
    """Says that a completed run of other settings will be replaced, while that can still be helped."""
    if read_result(directory) is None:
        return
    try:
        stored = read_json(directory / IDENTITY)
    except UserError:  # nothing says what the result is of
        return
    if isinstance(stored, dict) and (told := other_settings(stored, inputs.identity)):
        log.warning(
            "%s holds a completed run of other settings (%s): it stays until this one is whole, which takes its place; "
            "another output_dir=... keeps both",
            *(directory, _listed(told)),
        )


def _begin(config: Config, directory: Path, run_dir: Path, inputs: Inputs) -> None:
    """Puts away what an uncompleted run left and writes what a run can be resumed by, the configuration last."""
    if run_dir == directory:
        clear(directory)
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir()
    write_json(run_dir / IDENTITY, inputs.identity)
    write_bytes(run_dir / MANIFEST, inputs.data.manifest.to_bytes())
    write_yaml(run_dir / CONFIG, asdict(config))


def _completed(config: Config, directory: Path, run_dir: Path, inputs: Inputs) -> Mapping[str, Any] | None:
    """Returns the metrics of the completed run that ``resume`` or ``skip_completed`` finds, if it is of one identity.

    Raises:
        UserError: ``resume`` finds a run, completed or not, of another identity: what differs is named.
    """
    if config.resume:
        if told := _described_difference(run_dir, inputs, resumed_identity):
            raise UserError(
                f"resume={directory} goes on only with what it was started with: {told}; undo that, or start a new "
                "run without resume"
            )
        if lost := describe_loss(run_dir):
            raise UserError(
                f"resume={directory} was completed, but {lost}: put the file back, or train anew by the same command "
                f"with output_dir={directory} in the place of resume"
            )
        result = read_result(run_dir)
        return result["metrics"] if result else None
    if not config.skip_completed:
        return None
    if damage := describe_damage(directory):
        log.warning("%s", damage)
    if (result := read_result(directory)) is None:
        return None
    if told := _described_difference(directory, inputs):
        log.info("%s holds another result (%s): the job is done anew", directory, told)
        return None
    if lost := describe_loss(directory):
        log.warning("%s was completed, but %s: the job is done anew", directory, lost)
        return None
    return result["metrics"]


def _described_difference(
    run_dir: Path, inputs: Inputs, part: Callable[[Mapping[str, str]], Mapping[str, str]] = dict
) -> str | None:
    """What differs between (a part of) the identity that a run was begun with and the present one, in words."""
    try:
        stored = read_json(run_dir / IDENTITY)
    except UserError as error:
        return str(error)
    if not isinstance(stored, dict):
        return f"{run_dir / IDENTITY}: expected a mapping"
    told = differences(part(stored), part(inputs.identity))
    if stored.get("data") != inputs.identity["data"]:
        told.append(f"the data changed: {_described_data_difference(run_dir / MANIFEST, inputs.data)}")
    return _listed(told) or None


def _listed(told: Sequence[str]) -> str:
    return ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")


def _described_data_difference(path: Path, data: ImageDataModule) -> str:
    try:
        return difference(Manifest.from_bytes(path.read_bytes()), data.manifest) or "its digest differs"
    except (OSError, UserError):
        return "its digest differs"


def _advice(command: str, directory: Path) -> str:
    if is_multirun():
        return "the same command with skip_completed=true goes on with the jobs that are not completed"
    if command == "train":
        return f"`python train.py {shlex.quote(f'resume={directory}')}` goes on"
    return "the same command goes on, what was computed is kept (cache.root)"


def _write_failure(run_dir: Path, error: BaseException) -> None:
    interrupted = interruption.received() is not None or isinstance(error, KeyboardInterrupt)
    told = received.name if (received := interruption.received()) else f"{type(error).__name__}: {error}"
    with suppress(OSError):  # what stopped the job is told, not that the disk is still full
        write_json(run_dir / RESULT, {"status": "interrupted" if interrupted else "failed", "error": told})


def _with_key(error: OSError, places: Mapping[str, Path]) -> OSError:
    """The same error of a file, with the setting that names the place where it lies."""
    if error.filename is not None:
        path = Path(os.fsdecode(error.filename)).resolve()
        for key, place in places.items():
            if path.is_relative_to(place.resolve()):
                return OSError(error.errno, f"{error.strerror} ({key}={place})", str(error.filename))
    return error


def _told(key: str, value: Any) -> str:
    """A metric in words: ``test accuracy 93.9 %``."""
    words = key.removeprefix("val_") if key.startswith("val_") else key
    words = ("validation " if words != key else "") + words.replace("start_val_", "initial validation ").replace(
        "_", " "
    )
    is_share = key.endswith("accuracy") and isinstance(value, float)
    return f"{words} {100 * value:.4g} %" if is_share else f"{words} {value:.4g}"


def _versions() -> dict[str, str | None]:
    packages = ("huozi", "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: installed_version(name) for name in packages}}
