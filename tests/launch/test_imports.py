"""What commands load: seconds of imports are paid by who needs them alone. And how their threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "matplotlib", "PIL", "scipy", "sklearn", "torchvision", "timm", "pytorch_lightning", "wandb")
IN_ENTRY = """
import runpy, sys, atexit
atexit.register(lambda: print("LOADED", *sys.modules, file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def loaded(*command: str, cwd: Path, code: str = IN_ENTRY, **environment: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "HUOZI_"))}
    finished = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stderr.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("words", [("search.py", "--help"), ("train.py", "--cfg", "job")], ids=" ".join)
def test_help_and_the_printed_configuration_load_nothing_that_computes(words: tuple[str, ...], tmp_path: Path) -> None:
    script, *rest = words
    assert loaded(str(PROJECT / script), *rest, cwd=tmp_path) & set(HEAVY) == set()


@pytest.mark.parametrize("package", ["zoo", "cloning"])
def test_the_commands_of_packages_load_nothing_that_computes_for_their_help(package: str, tmp_path: Path) -> None:
    code = f"import atexit, runpy; {IN_ENTRY.splitlines()[2]}; runpy.run_module('{package}', run_name='__main__')"
    assert loaded("--help", cwd=tmp_path, code=f"import sys; {code}") & set(HEAVY) == set()


def test_a_command_loads_the_jobs_of_its_own_method_alone(tmp_path: Path) -> None:
    code = (
        "from types import SimpleNamespace as N; from launch.methods import jobs_of; import sys; "
        "print(jobs_of(N(method=N(name='reassembly'))).__name__); print('LOADED', *sys.modules, file=sys.stderr)"
    )
    found = loaded(cwd=tmp_path, code=code)
    assert "launch.reassembly_jobs" in found
    assert found & {"launch.cloning_jobs", "cloning.pipeline", "cloning.network"} == set()


def test_a_search_has_all_it_needs_without_what_only_tuning_drawing_and_other_data_need(tmp_path: Path) -> None:
    code = (
        "import launch.entry, launch.job, launch.reassembly_jobs, launch.cloning_jobs, datamodules.digits, sys; "
        "print('LOADED', *sys.modules, file=sys.stderr)"
    )
    assert loaded(cwd=tmp_path, code=code) & (set(HEAVY) - {"torch", "numpy"}) == set()
