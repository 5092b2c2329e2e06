"""Imports run one way: zoo <- tuning <- reassembly, cloning <- conf and the entry scripts; methods know no Hydra."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = {"hydra", "omegaconf", "conf"}
FORBIDDEN = {
    "zoo": {"tuning", "reassembly", "cloning", "datamodules", *CONFIG},
    "datamodules": {"tuning", "reassembly", "cloning", *CONFIG},
    "tuning": {"reassembly", "cloning", *CONFIG},
    "reassembly": {"cloning", *CONFIG},
    "cloning": {"reassembly", *CONFIG},
}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_above_it(package: str) -> None:
    wrong = {
        str(path.relative_to(PROJECT)): found
        for path in (PROJECT / package).rglob("*.py")
        if (found := imported(path) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_the_entry_scripts_stay_thin() -> None:
    for script in ("search.py", "train.py"):
        assert len((PROJECT / script).read_text().splitlines()) <= 65
