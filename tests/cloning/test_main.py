from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cloning_stand_ins import adapter, clone
from PIL import Image

from cloning import bundle
from cloning.__main__ import main
from cloning.blueprint import CloningBlueprint
from cloning.bundle import from_bundle, packed, to_bundle, unpack
from cloning.composite import read_composite
from cloning.framing import contents
from cloning.frozen import FrozenNetworks
from cloning.network import ClonedNetwork
from cloning.serving.app import read_image
from cloning.shelf import Shelf
from deploy import load
from zoo.blueprint import read_bundle, write_bundle
from zoo.errors import UserError
from zoo.interface import Interface, Reading, interface_to_plain
from zoo.registry import read_zoo
from zoo.storage.files import write_safetensors

ZOO = """
name: small
input: {channels: 1, height: 32, width: 32, mean: [0.5], std: [0.5]}
networks:
  low:
    source: timm
    model: resnet18
    kwargs: {in_chans: 1, num_classes: 3, layers: [1, 1, 1, 1], channels: [8, 8, 12, 16]}
    classes: [a, b, c]
  high:
    source: timm
    model: convnext_atto
    kwargs: {in_chans: 1, num_classes: 2, patch_size: 2, depths: [1, 1, 1, 1], dims: [8, 12, 16, 20]}
    classes: [d, e]
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory as train.py leaves it, and the zoo it was made with."""
    (tmp_path / "zoo.yaml").write_text(ZOO)
    networks = FrozenNetworks(read_zoo(tmp_path / "zoo.yaml"))
    target, source = networks("low"), networks("high")
    grafted = clone(source, "d", 2)
    network = ClonedNetwork(target, list("abcd"), [grafted], [adapter(target, grafted)])
    write_bundle(tmp_path / "bundle", to_bundle(network))
    return tmp_path


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_run_is_packed_and_unpacked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    assert call("pack", run, run / "clone", *zoo) == 0
    assert f"{(run / 'clone').stat().st_size:,} bytes" in capsys.readouterr().out
    assert call("unpack", run / "clone", "--output", run / "again", *zoo) == 0
    assert "low with high gives d at 2; logits of sender and receiver are bit-equal" in capsys.readouterr().out
    sent, received = (read_bundle(run / name, CloningBlueprint) for name in ("bundle", "again"))
    assert received.blueprint == sent.blueprint
    assert all(torch.equal(received.tensors[name], tensor) for name, tensor in sent.tensors.items())


def test_how_images_are_read_travels_with_the_clone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = read_zoo(run / "zoo.yaml")
    cropped = replace(zoo["low"].input, crop_pct=0.5, crop_mode="center")
    sent = Interface(cropped, tuple("abcd"), background="black", white_level=4095.0)
    content = read_bundle(run / "bundle", CloningBlueprint)
    write_bundle(run / "bundle", replace(content, interface=interface_to_plain(sent)))
    assert call("pack", run, run / "clone", "--zoo", run / "zoo.yaml") == 0
    assert call("unpack", run / "clone", "--output", run / "again", "--zoo", run / "zoo.yaml") == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)).save(run / "image.png")
    logits = []
    for name in ("bundle", "clone", "again"):
        model = load(run / name, zoo=zoo)
        assert model.interface.reading == sent.reading
        logits.append(model.predict([run / "image.png"]).probabilities)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    served = Shelf(zoo).open("name", contents(run / "clone")).network
    image = read_image((run / "image.png").read_bytes(), served.reading, 10_000)
    assert torch.allclose(served(image).softmax(1), logits[0], atol=1e-6)
    assert not torch.allclose(
        served(read_image((run / "image.png").read_bytes(), Reading(zoo["low"].input), 10_000)).softmax(1), logits[0]
    )
    without = read_composite(run / "clone")
    plain = ClonedNetwork(served.target, list("abce"), [clone(served.clones[0].source, "e", 0)], [None])
    other = replace(read_composite(packed(plain, "other")), classes=tuple("abcf"))
    with pytest.raises(UserError, match=r"reads images otherwise .*as the target's entry says, not crop_pct 0.5"):
        without.with_clone(other)


def test_a_strangers_way_to_read_images_is_checked(run: Path) -> None:
    networks = FrozenNetworks(read_zoo(run / "zoo.yaml"))
    network = from_bundle(read_bundle(run / "bundle", CloningBlueprint), networks)
    spec = network.target.input
    for reading, told in (
        (Reading(replace(spec, height=64)), "its target takes"),
        (Reading(spec, "no colour"), "dataset.background=no colour"),
        (Reading(spec, white_level=-1.0), "dataset.white_level=-1"),
    ):
        network.reading = reading
        with pytest.raises(UserError, match=told):
            unpack(packed(network, "stranger"), networks)


def test_a_run_is_packed_with_the_zoo_that_it_was_made_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("pack", run, run / "clone") == 2  # which does not say what that is
    assert "zoo embedded has no network 'low'" in (told := capsys.readouterr().err)
    assert "--zoo NAME_OR_FILE" in told
    content = {"zoo": yaml.safe_load(ZOO)}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    assert call("pack", run, run / "clone") == 0
    assert call("pack", run / "bundle", run / "clone", "--overwrite") == 0
    content["zoo"]["networks"]["high"]["source"] = "os:system"
    del content["zoo"]["networks"]["high"]["model"]
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    capsys.readouterr()
    assert call("pack", run, run / "clone", "--overwrite") == 2
    assert "network 'high' is built by os:system, a function that this file alone names" in capsys.readouterr().err


def test_damage_is_repaired_from_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    call("pack", run, run / "clone", *zoo)
    whole = (run / "clone").read_bytes()
    content = bytearray(whole)
    content[content.find(b'{"head') + 140] ^= 1
    (run / "clone").write_bytes(content)
    samples = {"images": torch.rand(8, 1, 32, 32), "labels": torch.arange(4).repeat(2)}
    write_safetensors(run / "samples.safetensors", samples, {})
    write_safetensors(run / "few.safetensors", {**samples, "labels": torch.arange(2).repeat(4)}, {})
    assert call("unpack", run / "clone", "--output", run / "again", *zoo) == 2
    assert not (run / "again").exists()
    capsys.readouterr()
    assert call("repair", run / "clone", run / "whole", "--samples", run / "few.safetensors", *zoo) == 2
    assert "its head is fitted anew, and no sample is of c, d: add some" in capsys.readouterr().err
    assert not (run / "whole").exists()
    assert call("repair", run / "clone", run / "whole", "--samples", run / "samples.safetensors", *zoo) == 0
    told = capsys.readouterr().out
    assert "fitted anew: head; from now on the file answers for this network, no longer for the sender's" in told
    assert re.search(r"up to [.0-9e+-]+ of the largest apart, and name \d+% of the images alike", told)
    assert call("unpack", run / "whole", *zoo) == 0
    assert "bit-equal (the sender is who repaired it: what had been damaged was fitted anew)" in capsys.readouterr().out
    call("repair", run / "whole", run / "again", "--samples", run / "few.safetensors", *zoo)  # all is intact
    capsys.readouterr()
    assert call("unpack", run / "again", *zoo) == 0
    assert "the sender is who repaired it" in capsys.readouterr().out

    content = bytearray(whole)
    content[content.find(b'{"logits') + 75] ^= 1
    (run / "clone").write_bytes(content)
    capsys.readouterr()
    arguments = ("--samples", run / "few.safetensors", "--overwrite", *zoo)  # nothing is fitted to them
    assert call("repair", run / "clone", run / "whole", *arguments) == 0
    assert "fitted anew: nothing; the sender's answers, which were damaged, are gone" in capsys.readouterr().out
    (run / "clone").write_bytes(whole[:-1])
    assert call("unpack", run / "clone", *zoo) == 2
    assert "damaged in probe" in (told := capsys.readouterr().err)
    assert "python -m cloning repair" in told


def test_mistakes_are_one_line_and_exit_code_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run / "other.yaml"
    other.write_text(ZOO.replace("  high:", "  tall:"))
    call("pack", run, run / "clone", "--zoo", run / "zoo.yaml")
    (run / "cut").write_bytes((run / "clone").read_bytes()[:-400])
    capsys.readouterr()
    for arguments, message in (
        (["pack", run / "nothing", run / "new"], "holds no bundle"),
        (["unpack", run / "cut", "--zoo", run / "zoo.yaml"], "damaged in head"),
        (["unpack", run / "clone", "--zoo", other], "has no network 'high'"),
        (["unpack", run / "clone", "--zoo", "nowhere"], "there is no zoo 'nowhere': known: cnn"),
    ):
        assert call(*arguments) == 2
        printed = capsys.readouterr()
        assert (printed.out, len(printed.err.splitlines())) == ("", 1)
        assert message in printed.err
        assert not (run / "new").exists()
    with pytest.raises(SystemExit, match="2"):
        call("pack", run, run / "new", "--dtype", "int8", "--zoo", run / "zoo.yaml")
    assert "--dtype: 'int8' is unknown; type --dtype one of float32, float16" in capsys.readouterr().err


def test_the_command_itself_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something else")
    command = [sys.executable, "-m", "cloning", "unpack", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'file'}: no packed clone: it does not begin with huozi-clone/1\n"


def test_what_is_there_and_something_else_is_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    assert call("pack", run, run / "clone", *zoo) == 0
    assert call("pack", run, run / "clone", *zoo) == 2  # an older clone
    assert call("unpack", run / "clone", "--output", run / "again", *zoo) == 0
    assert call("unpack", run / "clone", "--output", run / "again", *zoo) == 2
    assert capsys.readouterr().err.count("is there already: give another") == 2
    assert call("pack", run, run / "clone", "--overwrite", *zoo) == 0
    assert call("unpack", run / "clone", "--output", run / "again", "--overwrite", *zoo) == 0
    (run / "config.yaml").write_text("")
    assert call("unpack", run / "clone", "--output", run / "bundle", "--overwrite", *zoo) == 2
    assert "is the bundle of a run" in capsys.readouterr().err
    (run / "notes").mkdir()
    (run / "notes" / "letter.txt").write_text("dear")
    capsys.readouterr()
    for arguments in (
        ("pack", run, run / "notes" / "letter.txt"),
        ("pack", run, run / "notes"),
        ("unpack", run / "clone", "--output", run / "notes"),
        ("unpack", run / "clone", "--output", run / "notes" / "letter.txt"),
        ("repair", run / "clone", run / "notes" / "letter.txt", "--samples", run / "none"),
    ):
        assert call(*arguments, *zoo) == 2
        assert re.search(
            "is there and no|is a directory, not a file|is a file, not a directory", capsys.readouterr().err
        )
    assert [path.read_text() for path in (run / "notes").iterdir()] == ["dear"]


def test_a_directory_that_is_missing_is_made_and_one_that_cannot_be_is_told(run: Path, capsys) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    assert call("pack", run, run / "new" / "deep" / "clone", *zoo) == 0
    capsys.readouterr()
    assert call("pack", run, run / "zoo.yaml" / "clone", *zoo) == 2
    error = capsys.readouterr().err
    assert str(run / "zoo.yaml" / "clone") in error
    assert len(error.splitlines()) == 1


def test_logits_too_far_apart_are_refused_and_nothing_is_written(run: Path, capsys, monkeypatch) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    call("pack", run, run / "clone", *zoo)
    found = bundle.probe_logits
    monkeypatch.setattr(bundle, "probe_logits", lambda *given: found(*given) + 1)
    capsys.readouterr()
    assert call("unpack", run / "clone", "--output", run / "again", *zoo) == 2
    assert re.search("logits of sender and receiver are up to 0[.0-9]+ of the largest apart", capsys.readouterr().err)
    assert not (run / "again").exists()
    assert call("unpack", run / "clone", "--output", run / "again", "--tolerance", 1000, *zoo) == 0
    assert re.search("up to 0[.0-9]+ of the largest apart, and name 100% of the images", capsys.readouterr().out)
    for wrong in ("nan", "inf", "-1"):
        assert call("unpack", run / "clone", f"--tolerance={wrong}", *zoo) == 2
        assert "--tolerance" in capsys.readouterr().err


IMAGES, LABELS = torch.full((4, 1, 32, 32), 0.5), torch.arange(4)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"images": IMAGES}, "holds ['images']; expected images and labels"),
        ({"images": IMAGES[:, :, :30], "labels": LABELS}, "[4, 1, 30, 32]; expected floats (n, 1, 32, 32)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "[0, 1, 32, 32]; expected"),
        ({"images": IMAGES.to(torch.uint8), "labels": LABELS}, "images are torch.uint8"),
        ({"images": IMAGES * 255, "labels": LABELS}, "outside of [0, 1]"),
        ({"images": IMAGES * float("nan"), "labels": LABELS}, "outside of [0, 1]"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "labels are torch.int64 [3]"),
        ({"images": IMAGES, "labels": LABELS.float()}, "labels are torch.float32 [4]"),
        ({"images": IMAGES, "labels": LABELS + 1}, "labels go from 1 to 4; expected 0 to 3, the numbers of a, b, c, d"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels go from -1 to 2"),
    ],
)
def test_samples_are_checked(run: Path, capsys: pytest.CaptureFixture[str], samples: dict, message: str) -> None:
    zoo = ("--zoo", run / "zoo.yaml")
    call("pack", run, run / "clone", *zoo)
    write_safetensors(run / "samples.safetensors", samples, {})
    capsys.readouterr()
    assert call("repair", run / "clone", run / "whole", "--samples", run / "samples.safetensors", *zoo) == 2
    assert message in capsys.readouterr().err
    assert not (run / "whole").exists()
