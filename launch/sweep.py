"""A multirun, whatever launches its jobs: processes in turn, in parallel, on other machines.

What is known of a sweep lies in its directory and nowhere else: ``sweep.json`` says what it was begun with, and every
job keeps its own row there, ``JOB.json``, from its first moment on and under a lock that dies with its process. Whoever
ends last finds all rows, and so does ``python -m launch sweep DIR`` at any time, see ``launch.sweep_table``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Any

from filelock import FileLock
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from launch.checks import check, configured
from launch.command_line import quoted
from launch.errors import CONF, explain, is_bad_input
from launch.parent import check_data_of_all_jobs
from launch.run_directory import owned, read_result
from launch.schema import Config, keys
from launch.sweep_table import (
    ORPHANS_SECONDS,
    PLAN,
    RECHECK_ERROR,
    ROW_LOCK,
    Row,
    clear_rows,
    collect,
    completed_row,
    differing,
    exit_status,
    print_table,
    read_plan,
    row_path,
)
from tuning.settings import TrainerSettings
from zoo.errors import UserError
from zoo.storage.files import read_json, write_json
from zoo.storage.store import content_key

log = logging.getLogger(__name__)

MAX_CHECKED = 100
"""Jobs of a sweep that are composed and checked before the first begins; each takes some tenths of a second."""
_ELSEWHERE = ("skip_completed", "cache", "logger")
"""Settings without which a sweep is the same one."""


class SweepRefusedError(BaseException):
    """Carries what is wrong with a sweep: an ``Exception`` of a callback would be a mere warning to Hydra."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class Killed(Exception):
    """The process of a job was ended from outside."""


class BeginSweep(Callback):
    """Hydra's callback that begins a multirun, in the process of the command, before any job.

    It settles ``hydra.sweep.dir``, for all processes, as ``output_dir`` or ``runs_dir/sweeps/NAME``, the same for the
    same command line, and owns that directory as long as the process lives.

    Attributes:
        begun: The directory and whether it was made, once that has happened in this process.
    """

    begun: tuple[Path, bool] | None = None
    _ownership = ExitStack()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Begins the sweep.

        Raises:
            SweepRefusedError: From a job's settings or data that cannot be, a directory that another sweep works in, or
                processes that were started for a single job.
        """
        try:
            _require_own_processes()
            jobs = planned_jobs(config)
            check_jobs(config.hydra.job.config_name, jobs or [])
            if config.parent.dataset is not None and jobs is not None:
                check_data_of_all_jobs(config.hydra.job.config_name, jobs)
            self._begin(config, jobs)
        except Exception as error:
            raise SweepRefusedError(error) from error

    def _begin(self, config: DictConfig, jobs: Sequence[Sequence[str]] | None) -> None:
        command, words = config.hydra.job.config_name, list(config.hydra.overrides.task)
        name = f"{command}-{content_key(_naming(words), _params(config))[:8]}"
        key, place = "runs_dir", Path(config.runs_dir) / "sweeps" / name
        if config.output_dir is not None:
            key, place = "output_dir", Path(config.output_dir)
        if any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
            key, place = "hydra.sweep.dir", Path(config.hydra.sweep.dir)
        place = place.absolute()
        is_new = BeginSweep._ownership.enter_context(owned(place, key))
        told = [_telling(overrides) for overrides in jobs or []]
        clear_rows(place, but=told if config.skip_completed else [])
        write_json(place / PLAN, {"name": name, "command": command, "overrides": words, "jobs": jobs and told})
        with read_write(config), open_dict(config):  # what the jobs, composed anew in their processes, go by
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(place))}")
            config.hydra.sweep.dir = str(place)
        above = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CONF.parent), above)))  # of launchers' processes
        BeginSweep.begun = (place, is_new)


def end_sweep(failures: Sequence[BaseException]) -> int:
    """Prints the table of the sweep that this process has begun, if any; returns the exit status that follows from it.

    Args:
        failures: What stopped it. Where nothing had begun, the directory goes that was made for it.
    """
    if BeginSweep.begun is None:
        return 0
    directory, is_new = BeginSweep.begun
    rows = collect(directory, patience_seconds=ORPHANS_SECONDS)
    if failures and is_new and all(row["status"] == "not begun" for row in rows):
        BeginSweep._ownership.close()
        shutil.rmtree(directory, ignore_errors=True)
        return 1
    print_table(rows, directory)
    return exit_status(rows)


def planned_jobs(config: DictConfig) -> list[list[str]] | None:
    """The overrides of every job; None for a sweeper that chooses them as it goes on."""
    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return None
    words = [*(f"{key}={value}" for key, value in _params(config).items()), *config.hydra.overrides.task]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    batches = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
    return [list(overrides) for batch in batches for overrides in batch]


def check_jobs(command: str, jobs: Sequence[Sequence[str]]) -> None:
    """Holds the settings of all jobs of a sweep, of very many the first ``MAX_CHECKED``, against what can be known.

    Args:
        command: ``search`` or ``train``.
        jobs: Their overrides.

    Raises:
        UserError: From those that would be refused when their turn comes, with their numbers.
    """
    wrong: dict[str, list[int]] = {}
    for number, overrides in enumerate(jobs[:MAX_CHECKED]):
        try:
            check(configured(compose(command, list(overrides)), overrides, command), command)
        except Exception as error:
            if not is_bad_input(error):
                raise
            wrong.setdefault(explain(error, keys()), []).append(number)
    if wrong:
        count = sum(map(len, wrong.values()))
        told = "; ".join(f"job {', '.join(map(str, numbers))}: {line}" for line, numbers in wrong.items())
        raise UserError(f"{count} of {len(jobs)} jobs cannot run, and none was begun: {told}")


def _require_own_processes() -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "torchrun starts this command in several processes, and each would begin the whole sweep: leave torchrun "
            "out, and type trainer.devices=N, the processes of each job"
        )


def is_multirun() -> bool:
    """Whether this process runs a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_name() -> str | None:
    """The name of the sweep that this job is of, the same for the same command line: also its W&B group."""
    if not is_multirun():
        return None
    try:
        return str(read_json(Path(HydraConfig.get().sweep.dir) / PLAN)["name"])
    except (UserError, KeyError, TypeError):  # whoever removed it wants no group
        return None


def run_job(
    function: Callable[[Config], Mapping[str, Any]],
    make_config: Callable[[], Config],
    place: Callable[[Config], Path],
    describe: Callable[[BaseException], str],
) -> float:
    """Runs one job of a sweep and keeps its row; returns its ``value``, NaN of a job that failed.

    A failure is told by the row, not by an exception: it stops no other job.

    Args:
        function: The job, in this process.
        make_config: Gives its configuration, or refuses it.
        place: Gives the directory of the job.
        describe: An error in one line.
    """
    hydra = HydraConfig.get()
    directory, number = Path(hydra.sweep.dir), int(hydra.job.num)
    earlier = completed_row(directory, number, _telling(hydra.overrides.task))
    row: Row = {"job": number, "overrides": _telling(hydra.overrides.task), "status": "running"}
    row |= {"machine": platform.node(), "process": os.getpid()}
    planned = read_plan(directory)
    label = differing(planned)[number] if number < len(planned) else " ".join(row["overrides"])
    log.info("job %d: %s", number, label.replace("\n", " "))
    value, started = math.nan, time.perf_counter()
    lock = FileLock(directory / ROW_LOCK.format(number))
    with contextlib.suppress(NotImplementedError):  # a file system without locks: a job that was killed seems to run
        lock.acquire()
    if earlier is None:
        write_json(row_path(directory, number), row)
    try:
        config = make_config()
        job_directory = place(config)
        row["directory"] = str(job_directory)
        is_apart = launches_processes(config.trainer)
        metrics = _in_its_own_process(config, job_directory) if is_apart else function(config)
        row |= {"status": "completed", **_figures(job_directory), "metrics": dict(metrics)}
        value = float(metrics["value"])
    except Exception as error:  # noqa: BLE001 told in the table and by the exit status; the run's job.log has the traceback
        row |= {"status": "killed" if isinstance(error, Killed) else "failed", "error": describe(error)}
        log.error("error: job %s: %s", number, row["error"])
    except BaseException:
        row["status"] = "interrupted"
        raise
    finally:
        row["seconds"] = round(time.perf_counter() - started, 1)
        if earlier is not None and (row.get("metrics") == earlier.get("metrics") or _stands(earlier, row)):
            failed = {RECHECK_ERROR: row["error"]} if row["status"] in ("failed", "killed") else {}
            row = {**earlier, **failed}  # what was done before is told as it was then
        write_json(row_path(directory, number), row)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        collect(directory)
    gc.collect()  # no network of a finished job stays in memory
    return value


def launches_processes(trainer: TrainerSettings) -> bool:
    """Whether Lightning starts further processes by running the command again, which in a multirun would be the whole
    sweep."""
    return trainer.strategy != "auto"


def _in_its_own_process(config: Config, directory: Path) -> Mapping[str, Any]:
    """Runs a job as the command by itself, in its directory; what it says goes on to this process's stderr.

    Raises:
        UserError: It failed; with its own line.
        Killed: It was ended by a signal.
    """
    command = HydraConfig.get().job.config_name
    words = [word for word in HydraConfig.get().overrides.task if not word.startswith("output_dir=")]
    if config.output_dir is not None:
        words.append(f"output_dir={quoted(str(directory))}")
    if config.logger.name != "csv" and config.logger.group is None:
        words.append(f"logger.group={quoted(str(sweep_name()))}")
    line, told = [sys.executable, str(CONF.parent / f"{command}.py"), *words, "hydra.mode=RUN"], ""
    environment = {
        name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"
    }  # set by the command
    streams = {"stdout": sys.stderr, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(line, env=environment, **streams) as process:
        try:
            for text in process.stderr or ():
                if text.startswith("error: "):
                    told = text.removeprefix("error: ").strip()
                else:
                    print(text, end="", file=sys.stderr, flush=True)
        except BaseException:  # an interruption, which is to close the job's files, too
            process.terminate()
            raise
    if process.returncode < 0:
        raise Killed(f"its process was ended by {Signals(-process.returncode).name}")
    if process.returncode or (result := read_result(directory)) is None:
        raise UserError(told or f"it ended with exit status {process.returncode}: see {directory}/job.log")
    return result["metrics"]


def _stands(earlier: Row, row: Row) -> bool:
    """Whether a job that did not end well left the result that an earlier row tells of as it was."""
    if row["status"] == "completed" or "directory" not in earlier:
        return False
    result = read_result(Path(earlier["directory"]))
    return result is not None and result["metrics"] == earlier.get("metrics")


def _figures(directory: Path) -> dict[str, Any]:
    """What a row tells of a result beside its metrics."""
    result = read_result(directory) or {}
    return {name: result[name] for name in ("composition", "num_parameters", "macs") if name in result}


def _params(config: DictConfig) -> dict[str, Any]:
    return dict(config.hydra.sweeper.get("params") or {})


def _telling(words: Sequence[str]) -> list[str]:
    """What tells a job from others."""
    return [word for word in words if not word.startswith("skip_completed=")]


def _naming(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.lstrip("+~").partition("=")[0].partition(".")[0] not in _ELSEWHERE]
