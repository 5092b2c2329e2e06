"""What makes a command of a function of the configuration: Hydra, one-line errors, sweeps with a table of all jobs."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from launch import interruption
from launch.errors import CONF, explain, report
from launch.schema import Config, keys, register
from launch.sweep import Sweep
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
        def run_job(cfg: DictConfig) -> float:
            try:
                config = _checked(cfg)
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    _refuse_launching_strategy(config)  # before any job is a row of the table
                    metrics = sweep.job(function, config, lambda error: explain(error, keys()))
                else:
                    metrics = function(config)
            except Exception as error:  # noqa: BLE001 told below: Hydra would add lines of its own
                failures.append(error)
                return math.nan
            return float(metrics["value"])

        def main() -> None:
            register()
            logging.getLogger("hydra").setLevel(logging.WARNING)
            console = logging.StreamHandler()
            console.setLevel(logging.INFO)
            logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console])
            show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise what it would print in many lines
            with tempfile.TemporaryDirectory() as directory:
                os.environ["HUOZI_HYDRA_DIR"] = directory
                try:
                    with interruption.raised():
                        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(run_job)()
                except Exception as error:  # noqa: BLE001 told below
                    failures.append(error)
                except (KeyboardInterrupt, SystemExit):
                    if not interruption.received():
                        raise
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


def _checked(cfg: DictConfig) -> Config:
    """Returns the configuration as our dataclasses, whose constructors check the values.

    Raises:
        UserError: a value out of its range, an appended key that our settings do not have, a key that the method does
            not read, a wrong ``resume``.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except dataclasses.FrozenInstanceError as error:
        raise UserError(f"a key appended with '+' does not exist: {error}; --help lists the groups and keys") from error
    assert isinstance(config, Config)
    overrides = HydraConfig.get().overrides.task
    without_effect = [override for override in overrides if re.split(r"[.=]", override)[0] in config.unread]
    if without_effect:
        other = "method=reassembly" if config.method.name == "cloning" else "method=cloning"
        raise UserError(
            f"{without_effect[0]} has no effect with method={config.method.name}: leave it out, or type {other}"
        )
    if config.resume is not None:
        from launch.resume import resumed  # heavy

        return resumed(config, overrides)
    return config


def _refuse_launching_strategy(config: Config) -> None:
    if config.trainer.strategy.startswith(LAUNCHING_STRATEGIES) and not config.trainer.strategy.endswith("_spawn"):
        raise UserError(
            f"-m does not go with trainer.strategy={config.trainer.strategy}, whose processes would each start the "
            "whole sweep again: run the jobs one by one without -m, or type trainer=cpu, or trainer=gpu for one device"
        )
