"""What makes a command of a function of the configuration: Hydra, one-line errors, sweeps with a table of all jobs."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from launch import interruption, processes
from launch.checks import check, configured
from launch.command_line import readable
from launch.errors import CONF, explain, report
from launch.schema import Config, keys, register
from launch.sweep import SweepRefusedError, end_sweep, is_multirun, run_job
from zoo import progress, threads


def application(command: str) -> Callable[[Callable[[Config], Mapping[str, Any]]], Callable[[], None]]:
    """Decorates the ``main`` of an entry script, which takes the checked configuration and returns the job's metrics.

    The metric named ``value`` is what a sweeper optimises: never a test figure. Bad input ends with one line on stderr
    and exit status 2, any other failure with one line and status 1; ``HYDRA_FULL_ERROR=1`` shows the traceback, which
    the run's ``job.log`` keeps in any case. In a sweep a failed job does not stop the others, see ``launch.sweep``.
    An interruption stops everything, see ``launch.interruption``.
    """

    def decorate(function: Callable[[Config], Mapping[str, Any]]) -> Callable[[], None]:
        def checked(config: Config) -> Mapping[str, Any]:
            trainer = config.trainer
            threads.prepare((trainer.num_devices or 1) if trainer.accelerator == "cpu" else 1)
            with progress.progress("reading settings and zoo", 1):  # of a zoo that no command has read yet: seconds
                check(config, command)
            with processes.losses_told(is_shared=trainer.is_shared):
                return function(config)

        def make_config(cfg: DictConfig) -> Config:
            return configured(cfg, HydraConfig.get().overrides.task, command)

        def run(cfg: DictConfig) -> float:
            _log_to_stderr()  # a launcher's process has not been through main
            if is_multirun():
                place = partial(_job_directory, command)
                return run_job(checked, partial(make_config, cfg), place, lambda error: explain(error, keys()))
            try:
                return float(checked(make_config(cfg))["value"])
            except Exception as error:  # noqa: BLE001 told by main: Hydra would add lines of its own
                failures.append(error)
                return math.nan

        def main() -> None:
            register()
            logging.getLogger("hydra").setLevel(logging.WARNING)
            _log_to_stderr()
            show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise what it would print in many lines
            try:
                with interruption.raised():
                    sys.argv[1:] = readable(sys.argv[1:])
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(run)()
            except SweepRefusedError as refusal:
                failures.append(refusal.reason)
            except Exception as error:  # noqa: BLE001 told below
                failures.append(error)
            except (KeyboardInterrupt, SystemExit):
                if not interruption.received():
                    raise
            progress.clear()
            status = end_sweep(failures)
            if interruption.received():
                sys.exit(interruption.report())
            if failures:
                if show_traceback:
                    raise failures[0]
                sys.exit(report(failures[0], keys()))
            sys.exit(status)

        failures: list[Exception] = []
        return main

    return decorate


def _job_directory(command: str, config: Config) -> Path:
    from launch.job import run_directory  # heavy
    from launch.parent import after_parent

    return run_directory(after_parent(config), command)[0]


def _log_to_stderr() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, progress.StderrHandler) for handler in root.handlers):
        console = progress.StderrHandler()
        console.setLevel(logging.INFO)
        console.setFormatter(logging.Formatter("%(message)s"))
        root.setLevel(logging.INFO if processes.is_main() else logging.WARNING)  # one of several tells it
        root.addHandler(console)
