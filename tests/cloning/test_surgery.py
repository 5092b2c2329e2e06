"""``python -m cloning add | remove | list``, in process."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import ZOO, adapter, clone, images

import deploy
from cloning.__main__ import main
from cloning.bundle import pack, to_bundle
from cloning.composite import unpack_any
from cloning.frozen import FrozenNetworks
from cloning.network import ClonedNetwork
from zoo.blueprint import write_bundle
from zoo.registry import read_zoo
from zoo.storage.files import write_safetensors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zoo, two packed clones on the same target, one of them as a run, and one on another target."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "zoo.yaml").write_text(ZOO)
    networks = FrozenNetworks(read_zoo(folder / "zoo.yaml"))
    for name, target, source, gained, position in (
        ("high.hz", "low", "high", "d", 2),
        ("rare.hz", "low", "rare", "f", 0),
        ("foreign.hz", "high", "rare", "g", 0),
        ("elsewhere.hz", "low", "high", "d", 0),
    ):
        grafted = clone(networks(source), gained, position)
        classes = [*networks(target).classes, gained]
        found = ClonedNetwork(networks(target), classes, [grafted], [adapter(networks(target), grafted)])
        with torch.no_grad():
            found.head.weight.add_(0.1)
        pack(found, folder / name)
        if name == "rare.hz":
            write_bundle(folder / "run" / "bundle", to_bundle(found))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def call(*words: str) -> int:
    return main([*words, *(("--zoo", "zoo.yaml") if words[0] != "list" else ())])


def network(path: str) -> ClonedNetwork:
    return unpack_any(path, FrozenNetworks(read_zoo("zoo.yaml"))).network


def test_clones_are_added_and_removed_with_proof(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("add", "low", "high.hz") == 0
    told = capsys.readouterr().out
    assert "low+high.hz: " in told
    assert "without high it is low again: the same bytes, the same logits" in told
    assert "made apart" not in told  # one clone was weighed against its target
    assert len(re.findall(r"^(low|high) sha256:[0-9a-f]{64} is as it was$", told, re.MULTILINE)) == 2
    assert Path("low+high.hz").read_bytes() == Path("high.hz").read_bytes()
    assert call("add", "high.hz", "rare.hz", "--output", "both.hz") == 0
    assert "high and rare were made apart" in (told := capsys.readouterr().out)
    assert "task.sources=[high,rare]" in told
    assert call("add", "high.hz", "run") == 2
    assert "run is a directory: type python -m cloning pack run FILE.hz" in capsys.readouterr().err
    assert call("add", "run", "high.hz", "--output", "other.hz") == 0  # in the other order
    assert network("both.hz").classes == tuple("abcdf")
    x = images(3)
    torch.testing.assert_close(network("both.hz")(x), network("other.hz")(x)[:, [0, 1, 2, 4, 3]])
    assert torch.equal(deploy.load("both.hz", zoo="zoo.yaml")(x), network("both.hz")(x))
    assert call("remove", "both.hz", "high", "--output", "rest.hz") == 0
    assert Path("rest.hz").read_bytes() == Path("rare.hz").read_bytes()
    assert call("remove", "both.hz", "rare.hz", "--output", "rest2.hz") == 0
    assert Path("rest2.hz").read_bytes() == Path("high.hz").read_bytes()
    capsys.readouterr()
    assert call("remove", "rest2.hz", "high", "--output", "bare.hz") == 0
    assert "its logits are low's own, bit for bit" in capsys.readouterr().out
    target = FrozenNetworks(read_zoo("zoo.yaml"))("low")
    assert torch.equal(network("bare.hz")(x), target.logits(x))


def test_several_clones_are_written_over_where_told_so_and_repaired_one_by_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("add", "high.hz", "rare.hz", "--output", "both.hz") == 0
    before = Path("both.hz").read_bytes()
    write_safetensors("samples", {"images": torch.rand(1, 1, 32, 32), "labels": torch.zeros(1).long()}, {})
    capsys.readouterr()
    assert call("repair", "both.hz", "again.hz", "--samples", "samples") == 2
    assert "both.hz holds several clones: repair the file of each" in capsys.readouterr().err
    assert call("pack", "run", "both.hz") == 2
    assert "both.hz is there already: give another path, or --overwrite" in capsys.readouterr().err
    assert (Path("both.hz").read_bytes(), Path("again.hz").exists()) == (before, False)
    assert call("pack", "run", "both.hz", "--overwrite") == 0
    assert Path("both.hz").read_bytes() != before


def test_packed_clones_are_listed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("add", "high.hz", "rare.hz", "--output", "both.hz") == 0
    assert call("list", "both.hz") == 0
    told = capsys.readouterr().out
    assert re.search(r"high sha256:\w{12} gives d at position 2, [\d,]+ gates open", told)
    assert re.search(r"rare sha256:\w{12} gives f at the image, [\d,]+ gates open", told)
    Path("cut.hz").write_bytes(Path("both.hz").read_bytes()[:-50])
    assert call("list", ".") == 1
    told = capsys.readouterr().out
    assert told.count("\nrefused: cut.hz: its part 2: damaged") + told.startswith("refused: cut.hz") == 1
    assert "foreign.hz: " in told
    Path("empty").mkdir()
    assert call("list", "empty", "high.hz") == 1
    told = capsys.readouterr().out
    assert told.startswith("refused: empty holds no packed clone (*.hz)\nhigh.hz: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "low", "foreign.hz"), "foreign.hz is a clone on 'high', and 'low' is the target here"),
        (("add", "high.hz", "high.hz"), "a clone of 'high' is there already: take it off first"),
        (("add", "low", "zoo.yaml"), "zoo.yaml: no packed clone: it does not begin with huozi-clone/1"),
        (("add", "low", "absent.hz"), "absent.hz: expected a file, but it does not exist"),
        (("add", "lou", "high.hz"), "lou is no file and no network of the zoo 'small'"),
        (("add", ".", "high.hz"), ". holds no bundle"),
        (("add", "low", "cut.hz"), "cut.hz: damaged in probe"),
        (("add", "low", "high.hz", "--output", "rare.hz"), "rare.hz is there already: give another path (--output)"),
        (("add", "low", "high.hz", "--output", "zoo.yaml/x"), "zoo.yaml is a file, not a directory"),
        (("remove", "high.hz", "rare"), "low has no clone of 'rare' to take off, but of high"),
        (
            ("remove", "high.hz", "elsewhere.hz"),
            "elsewhere.hz is not in high.hz as it is, which holds clones of high",
        ),
        (("add", "high.hz", "low"), "low is a network of the zoo, no packed clone: type add low high.hz"),
        (("remove", "low", "high"), "low has no clones: there is nothing of 'high' to take off"),
        (("list", "absent.hz"), "absent.hz: expected a file, but it does not exist"),
        (("list", "cut.hz"), "cut.hz: damaged in probe"),
        (("list", "run"), "run holds no packed clone (*.hz)"),
    ],
)
def test_mistakes_are_one_line(place: Path, capsys: pytest.CaptureFixture[str], words: tuple, message: str) -> None:
    Path("cut.hz").write_bytes(Path("high.hz").read_bytes()[:-10])
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert call(*words) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert message in printed.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
