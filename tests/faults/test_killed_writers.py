"""Writers killed at every event of a file, and disks that are full at any length: the old file, or the new one."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.blueprint import BlockSpec, Bundle, HeadSpec, ReassemblyBlueprint, read_bundle, write_bundle
from zoo.errors import UserError
from zoo.storage import files

DIGEST = "sha256:" + "ab" * 32

# Forks a child for every event, so that torch is imported once.
WRITER = """
import os, signal, sys
from pathlib import Path
from tests.faults.test_killed_writers import bundle
from zoo.blueprint import write_bundle

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

for event in range(1000):
    directory = Path(sys.argv[1]) / str(event)
    write_bundle(directory, bundle(0))
    child = os.fork()
    if child == 0:
        left = event
        os.fsync, os.replace, os.open, os.unlink = map(counted, (os.fsync, os.replace, os.open, os.unlink))
        write_bundle(directory, bundle(1))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(event)
"""


def bundle(seed: int) -> Bundle:
    blueprint = ReassemblyBlueprint(
        (BlockSpec("resnet", (0, 4)),), (), HeadSpec(classes=("cat", f"dog{seed}")), {"resnet": DIGEST}
    )
    return Bundle(blueprint, {"head.bias": torch.full((3,), float(seed))}, complete=False)


def outcome(directory: Path) -> float | None:
    """The seed of the bundle that is there; ``None`` for files that are told not to belong together."""
    try:
        return read_bundle(directory).tensors["head.bias"][0].item()
    except UserError as refusal:
        if "belong to another blueprint" not in str(refusal):
            raise
        return None


def test_a_killed_writer_leaves_the_old_bundle_or_the_new_or_one_that_is_refused(
    tmp_path: Path, record_property
) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    num_events = int(done.stdout)
    assert num_events >= 6  # both files are flushed, renamed, and flushed with their directory
    found = [outcome(tmp_path / str(event)) for event in range(num_events)]
    assert found[0] == 0
    assert found == sorted(found, key=lambda value: (value == 1, value is None))  # old, then refused, then new
    assert found.count(None) == 1  # between the two renames alone
    num_left = sum(len(list((tmp_path / str(event)).glob(".huozi-*"))) for event in range(num_events))
    assert num_left > 0
    for event in range(num_events):
        write_bundle(tmp_path / str(event), bundle(1))
        assert sorted(path.name for path in (tmp_path / str(event)).iterdir()) == [
            "blueprint.yaml",
            "weights.safetensors",
        ]
    told = f"{num_left} temporary files left and removed by the next writer"
    record_property("faults", f"{num_events} killed writers, {told}")


def test_a_disk_that_is_full_at_any_length_leaves_the_old_bundle(tmp_path: Path, record_property) -> None:
    write_bundle(tmp_path, bundle(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = range(0, (tmp_path / "weights.safetensors").stat().st_size, 16)
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match=f"File too large: '{tmp_path}"):
                write_bundle(tmp_path, bundle(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert read_bundle(tmp_path).tensors["head.bias"][0] == 0
        assert len(list(tmp_path.iterdir())) == 2
    files.write_text(tmp_path / "more", "there is room again")
    record_property("faults", f"{len(limits)} full disks")
