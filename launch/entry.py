"""What makes a command of a function of the configuration: Hydra, one-line errors, sweeps with a table of all jobs."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from launch import interruption
from launch.checks import check, configured
from launch.command_line import readable
from launch.errors import CONF, explain, report
from launch.parent import check_data_of_all_jobs
from launch.schema import Config, keys, register
from launch.sweep import Sweep
from zoo import progress, threads
from zoo.errors import UserError

# Lightning starts the further processes of these by running the command again, in a multirun the whole sweep of it.
LAUNCHING_STRATEGIES = ("ddp", "fsdp", "deepspeed")


def application(command: str) -> Callable[[Callable[[Config], Mapping[str, Any]]], Callable[[], None]]:
    """Decorates the ``main`` of an entry script, which takes the checked configuration and returns the job's metrics.

    The metric named ``value`` is what a sweeper optimises: never a test figure. Bad input ends with one line on stderr
    and exit status 2, any other failure with one line and status 1; ``HYDRA_FULL_ERROR=1`` shows the traceback, which
    the run's ``job.log`` keeps in any case. In a sweep a failed job does not stop the others: it is a row of the table.
    An interruption stops everything, see ``launch.interruption``.
    """

    def decorate(function: Callable[[Config], Mapping[str, Any]]) -> Callable[[], None]:
        def checked(config: Config) -> Mapping[str, Any]:
            trainer = config.trainer
            threads.prepare(trainer.devices if trainer.accelerator == "cpu" else 1)
            check(config)
            return function(config)

        def run_job(cfg: DictConfig) -> float:
            try:
                config = configured(cfg, HydraConfig.get().overrides.task, command)
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    _refuse_launching_strategy(config)  # before any job is a row of the table
                    if config.parent.dataset is not None:
                        sweep.once(lambda: check_data_of_all_jobs(command))
                    metrics = sweep.job(checked, config, lambda error: explain(error, keys()))
                else:
                    metrics = checked(config)
            except Exception as error:  # noqa: BLE001 told below: Hydra would add lines of its own
                failures.append(error)
                return math.nan
            return float(metrics["value"])

        def main() -> None:
            register()
            logging.getLogger("hydra").setLevel(logging.WARNING)
            console = progress.StderrHandler()
            console.setLevel(logging.INFO)
            logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console])
            show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise what it would print in many lines
            with tempfile.TemporaryDirectory() as directory:
                os.environ["HUOZI_HYDRA_DIR"] = directory
                try:
                    with interruption.raised():
                        sys.argv[1:] = readable(sys.argv[1:])
                        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(run_job)()
                except Exception as error:  # noqa: BLE001 told below
                    failures.append(error)
                except (KeyboardInterrupt, SystemExit):
                    if not interruption.received():
                        raise
            progress.clear()
            if sweep.rows:
                sweep.print_table()
            if interruption.received():
                sys.exit(interruption.report())
            if failures:
                if show_traceback:
                    raise failures[0]
                sys.exit(report(failures[0], keys()))
            sys.exit(1 if sweep.num_failed else 0)

        sweep, failures = Sweep(command), []
        return main

    return decorate


def _refuse_launching_strategy(config: Config) -> None:
    if config.trainer.strategy.startswith(LAUNCHING_STRATEGIES) and not config.trainer.strategy.endswith("_spawn"):
        raise UserError(
            f"-m does not go with trainer.strategy={config.trainer.strategy}, whose processes would each start the "
            "whole sweep again: run the jobs one by one without -m, or type trainer=cpu, or trainer=gpu for one device"
        )
