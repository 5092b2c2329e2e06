"""The configuration of a command without arguments, to tell what a run had otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from launch.errors import CONF
from launch.inputs import ELSEWHERE
from launch.schema import register


def default_settings(method: str) -> dict[str, Any]:
    """The settings of ``train.py method=...`` as plain data, without those that only say where files go.

    Args:
        method: Its name; the settings of the usual method for a name that there is not.
    """
    with ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            register()
            stack.enter_context(initialize_config_dir(str(CONF), version_base="1.3"))
        known = {path.stem for path in (CONF / "method").glob("*.yaml")}
        config = OmegaConf.to_object(compose("train", [f"method={method}"] if method in known else []))
    return {key: value for key, value in asdict(config).items() if key not in ELSEWHERE}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted keys, lists whole, without those that only say where files go."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if not prefix and key in ELSEWHERE:
            continue
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found
