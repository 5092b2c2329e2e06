"""Faults are injected into commands that run in the process of the test."""

from tests.launch.conftest import composer, folder

__all__ = ["composer", "folder"]
