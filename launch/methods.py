"""The jobs of a method, of which a command loads its own alone."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from launch.schema import Config


def jobs_of(config: Config) -> ModuleType:
    """The module with ``search`` and ``train`` of the configured method; heavy."""
    return import_module("launch.cloning_jobs" if config.method.name == "cloning" else "launch.reassembly_jobs")
