"""Continuing an interrupted run with the configuration it was started with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from launch.schema import Config, structured
from zoo.errors import UserError
from zoo.storage.files import read_yaml

# Where a run is computed and logged may change on the way; what it computes may not.
FREE = ("resume", "trainer", "logger", "hydra")


def resumed(config: Config, overrides: Sequence[str]) -> Config:
    """Returns the saved configuration of the run directory ``config.resume``.

    Args:
        overrides: of the command line; only where the run is computed and logged may be given anew.

    Raises:
        UserError: the directory is not that of a training run, or other settings are given beside ``resume``.
    """
    run_dir = Path(config.resume or "")
    if not (run_dir / "config.yaml").is_file() or not (run_dir / "checkpoints").is_dir():
        raise UserError(
            f"resume={run_dir} is no run to continue: give the directory of a `python train.py` run, which holds "
            "config.yaml and checkpoints/"
        )
    given = [override.lstrip("+~").split("=")[0] for override in overrides]
    bound = [key for key in given if key.split(".")[0] not in FREE]
    if bound:
        raise UserError(
            f"resume={run_dir} takes its settings from that run, so {', '.join(bound)} cannot be given beside it: "
            "leave them out, or start a new run without resume"
        )
    saved = OmegaConf.to_object(OmegaConf.merge(structured(), read_yaml(run_dir / "config.yaml")))
    assert isinstance(saved, Config)
    changed = {key: getattr(config, key) for key in ("trainer", "logger") if any(k.split(".")[0] == key for k in given)}
    return dataclasses.replace(saved, resume=config.resume, **changed)
