"""Jobs killed (SIGKILL) at every file event of theirs: the directory is the old run or goes on as the new one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch.job import Job
from tests.killing import is_killed
from tests.launch.conftest import perform
from zoo.storage.files import write_text

OTHERS = ("resnext_low", "regnety_even", "convnext_odd", "mobilenetv3_rotation", "mixer_inverted", "vit_digits")
SMALL = (
    *(f"~zoo.networks.{name}" for name in OTHERS),
    *(f"dataset.num_{split}={count}" for split, count in (("train", 60), ("validation", 30), ("test", 30))),
)
OLD, NEW = ("seed=0", "output_dir=r"), ("seed=1", "output_dir=r")
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def stages(job: Job) -> Mapping[str, Any]:
    """Trains in two steps, each of which needs the one before, and writes what a run writes."""
    step = job.run_dir / "checkpoints" / "last.ckpt"
    seed = job.config.seed
    if not step.exists():
        write_text(step, f"seed {seed} step 1")
    assert step.read_text() in (f"seed {seed} step 1\n", f"seed {seed} step 2\n")
    write_text(step, f"seed {seed} step 2")
    names = (
        "bundle/blueprint.yaml",
        "bundle/weights.safetensors",
        "metrics.csv",
        *(["gates.png"] if seed == 0 else []),
    )
    for name in names:
        write_text(job.run_dir / name, f"{name} of seed {seed}")
    return job.finish({"value": 0.5 + seed}, files=[])


def killed_at(event: int, directory: Path, action: Callable[[], object]) -> bool:
    """Does ``action`` in a process killed before its ``event``-th change below ``directory``; False: it ended."""
    count = 0

    def is_time(name: str, arguments: tuple[Any, ...]) -> bool:
        nonlocal count
        if name not in EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return False
        is_read = name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        is_own = not is_read and os.path.abspath(os.fsdecode(arguments[0])).startswith(f"{directory}/")
        count += is_own
        return is_own and count == event

    return is_killed(action, is_time)


def state(directory: Path) -> dict[str, bytes]:
    """All that a run claims: its files but the log, its lock, and what an unfinished run beside it has."""
    files = (path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file())
    kept = [name for name in files if name.parts[0] not in ("unfinished", ".lock", "job.log")]
    return {str(name): (directory / name).read_bytes() for name in kept if not name.name.startswith(".")}


def claims(directory: Path) -> bool:
    """Whether the directory says that it holds a completed run."""
    path = directory / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] == "completed"


@pytest.fixture
def references(folder: Path) -> dict[str, dict[str, bytes]]:
    """What an old and a new run leave where nobody kills them."""
    found = {}
    for name, overrides in (("old", OLD), ("new", NEW)):
        os.mkdir(name)
        os.chdir(name)
        perform("train", stages, *SMALL, *overrides)
        found[name] = state(folder / name / "r")
        os.chdir(folder)
    return found


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ("empty", 9),
        ("completed", 5),
        ("uncompleted", 9),
        *(pytest.param(start, 1, marks=pytest.mark.large) for start in ("empty", "completed", "uncompleted")),
    ],
)
def test_a_killed_job_leaves_the_old_run_or_goes_on_as_the_new_one(
    start: str,
    step: int,
    references: dict[str, dict[str, bytes]],
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    directory, event, kills = folder / "r", 1, dict.fromkeys(("old run", "new run", "resumed", "begun again"), 0)
    if start != "empty":
        perform("train", stages, *SMALL, *OLD)
        if start == "uncompleted":
            (directory / "result.json").unlink()
        shutil.copytree(directory, folder / "start")
    while killed_at(event, directory, lambda: perform("train", stages, *SMALL, *NEW)):
        if claims(directory):
            found = state(directory)
            assert found in references.values(), f"event {event}: {sorted(found)}"
            kills["old run" if found == references["old"] else "new run"] += 1
        has_run = any((directory / place / "config.yaml").is_file() for place in ("", "unfinished"))
        if has_run:
            perform("train", stages, "resume=r")
            kills["resumed"] += 1
        if not has_run or state(directory) == references["old"]:  # killed before the new run was anything
            perform("train", stages, *SMALL, *NEW)
            kills["begun again"] += 1
        assert state(directory) == references["new"], f"event {event}"
        assert not (directory / "unfinished").exists()
        shutil.rmtree(directory)
        if start != "empty":
            shutil.copytree(folder / "start", directory)
        event += step
    assert state(directory) == references["new"]
    assert event > 30
    told = f"{(event - 1) // step} kills at {event - 1} file events"
    record_property("faults", f"{told} of a job over what is {start}: {kills}")
