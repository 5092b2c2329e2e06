"""Imports run one way, between the floors and, on the ground floor, between its rooms; only the top knows Hydra."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = {"hydra", "omegaconf", "conf", "launch"}
ABOVE_METHODS = {"deploy", "studies", "benchmarks", *CONFIG}
HYDRA = {"hydra", "omegaconf", "conf"}
FORBIDDEN = {
    "zoo": {"figures", "tuning", "reassembly", "cloning", "datamodules", *ABOVE_METHODS},
    "figures": {"tuning", "reassembly", "cloning", "datamodules", *ABOVE_METHODS},
    "datamodules": {"tuning", "reassembly", "cloning", *ABOVE_METHODS},
    "tuning": {"reassembly", "cloning", "datamodules", *ABOVE_METHODS},
    "reassembly": {"cloning", *ABOVE_METHODS},
    "cloning": {"reassembly", *ABOVE_METHODS},
    "launch": {"deploy", "studies", "benchmarks"},
    "deploy": {"studies", "benchmarks", *HYDRA},
    "benchmarks": {"studies"},
}
# Of the ground floor, what each room may import of it.
ROOMS = {
    "zoo.limits": {"zoo.errors"},
    "zoo.storage": {"zoo.errors", "zoo.limits"},
    "zoo.chain": {"zoo.errors"},
    "zoo.ridge": set(),
    "zoo.executors": {"zoo.errors", "zoo.limits", "zoo.threads"},
    "zoo.stitching": {"zoo.errors", "zoo.chain", "zoo.ridge"},
    "zoo.blueprint": {"zoo.errors", "zoo.digests", "zoo.storage"},
}


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files_of(package: str) -> list[Path]:
    """The files of a package."""
    return sorted((PROJECT / package.replace(".", "/")).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_above_it(package: str) -> None:
    tops = {path: {name.partition(".")[0] for name in imported(path)} for path in files_of(package)}
    wrong = {str(path.relative_to(PROJECT)): found & FORBIDDEN[package] for path, found in tops.items()}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    allowed = (room, *ROOMS[room])
    wrong = {
        (str(path.relative_to(PROJECT)), name)
        for path in files_of(room)
        for name in imported(path)
        if name.startswith("zoo") and not any(f"{name}.".startswith(f"{below}.") for below in allowed)
    }
    assert {(path, name) for path, name in wrong if name != "zoo"} == set()


def test_the_configuration_is_yaml_only() -> None:
    assert {path.suffix for path in (PROJECT / "conf").rglob("*") if path.is_file()} == {".yaml"}


def test_the_entry_scripts_stay_thin() -> None:
    for script in ("search.py", "train.py"):
        assert len((PROJECT / script).read_text().splitlines()) <= 65
