"""``predict``, ``evaluate``, ``complete``, ``benchmark`` as commands: files, numbers, exit codes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import deploy.__main__ as command
from cloning.blueprint import CloningBlueprint
from deploy import Model, load
from deploy.measures import Evaluation
from tests.deploy.deploy_stand_ins import save
from zoo.blueprint import read_bundle, write_bundle
from zoo.blueprint.seen import SeenImages

PROJECT = Path(__file__).resolve().parents[2]


def main(*words: str | Path) -> int:
    return command.main([str(word) for word in words])


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line of a refusal."""
    assert main(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_predict_writes_names_and_probabilities_and_skips_what_is_broken(
    bundle: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    expected = load(bundle).predict(images)
    assert main("predict", bundle, images, broken, "--top-k", "2", "--output", tmp_path / "a.csv") == 1
    told = capsys.readouterr().err
    assert f"skipped: {broken} cannot be read as an image" in told
    assert "4 images predicted, 1 of 5 skipped" in told
    rows = read_csv(tmp_path / "a.csv")
    assert list(rows[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    for row, name, top in zip(rows, expected.images, expected.top(2), strict=True):
        assert [row["image"], row["class_1"], row["class_2"]] == [name, top[0][0], top[1][0]]
        assert float(row["probability_1"]) == pytest.approx(top[0][1], abs=1e-6)

    assert main("predict", bundle, f"{images}/*/a.png", "--output", tmp_path / "b.json") == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert [entry["image"] for entry in found] == [f"{images}/3/a.png", f"{images}/7/a.png"]
    assert len(found[0]["predictions"]) == 5
    before = (tmp_path / "b.json").read_bytes()
    capsys.readouterr()
    assert "b.json exists: give another path, or --overwrite" in refused(
        capsys, "predict", bundle, images, "--output", tmp_path / "b.json"
    )
    assert (tmp_path / "b.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere/*.png"], "nowhere/*.png does not exist, and matches nothing"),
        ([".", "--output", "table.txt"], "expected a name that ends in .csv or .json"),
        ([".", "--output", "file/table.csv"], "is a file, not a directory"),
        (["file"], "none of the 1 files could be read as an image: nothing is written"),
    ],
)
def test_what_predict_cannot_do_is_told_in_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("a.png")
    Path("file").write_text("text")
    assert told in refused(capsys, "predict", bundle, *words)
    assert sorted(os.listdir()) == ["a.png", "file"]


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluate_finds_what_the_run_found_to_the_last_digit(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    stored = json.loads((run_dir / "result.json").read_text())["metrics"][f"{split}_accuracy"]
    assert main("evaluate", run_dir, f"split={split}", "--output", tmp_path / "out") == 0
    assert f"the run itself found the same, {stored:g}" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert found["accuracy"] == stored
    rows = read_csv(tmp_path / "out/predictions.csv")
    assert round(sum(row["class"] == row["prediction"] for row in rows) / len(rows), 6) == pytest.approx(
        stored, abs=1e-6
    )
    matrix = torch.tensor(found["confusion"]["rows_true_columns_named"])
    assert matrix.sum() == len(rows) == found["num_images"]
    assert matrix.diagonal().sum() == sum(row["is_right"] == "1" for row in rows)


def test_evaluate_takes_a_folder_and_overrides(
    bundle: Path, run_dir: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("evaluate", bundle, images) == 0
    assert "on " + images.name + " (test, 4 images)" in capsys.readouterr().out
    assert main("evaluate", run_dir, "dataset.num_test=50", "split=test") == 0
    assert "on digits (test, 50 images)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "on which data? give dataset=NAME"),
        (["split=tset"], "split=tset: did you mean 'test'?"),
        (["seed=1", "colour=red"], "colour=red: expected dataset=..., dataset.KEY=... or seed=..."),
        (["dataset=digit"], "dataset=digit is not an option"),
        (["dataset=digits", "dataset.num_tests=3"], "num_tests"),
        (["dataset=image_folder"], "dataset.root is not given"),
        (["dataset=mnist5k", "dataset.variant=rotation"], "has the classes turned 0, turned 90"),
        (["nowhere"], "nowhere is no folder"),
        (["dataset=digits", "nowhere"], "dataset=digits does not go with a folder"),
    ],
)
def test_what_evaluate_cannot_do_is_told_in_one_line(
    bundle: Path, capsys: pytest.CaptureFixture[str], words: list, told: str
) -> None:
    assert told in refused(capsys, "evaluate", bundle, *words)


def test_the_run_of_a_stranger_has_no_function_called(run_dir: Path, tmp_path: Path, capsys) -> None:
    import shutil

    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("datamodules.Digits", "os.getcwd"))
    assert "would have 'os.getcwd' called" in refused(capsys, "evaluate", tmp_path / "run")


def test_measures_are_those_of_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 7, generator=generator), torch.randint(0, 7, (500,), generator=generator)
    found = Evaluation(tuple("abcdefg"), logits, labels)
    named, confidence = logits.argmax(1), logits.softmax(1).max(1).values
    assert found.accuracy == pytest.approx(sum(n == y for n, y in zip(named, labels, strict=True)).item() / 500)
    assert found.top(5) == pytest.approx(
        sum(int(y in row.topk(5).indices) for row, y in zip(logits, labels, strict=True)) / 500
    )
    gap = 0.0
    for lower in range(15):
        inside = (confidence > lower / 15) & (confidence <= (lower + 1) / 15)
        if inside.any():
            right = (named == labels)[inside].double().mean()
            gap += inside.double().mean().item() * abs(right - confidence[inside].double().mean()).item()
    assert found.calibration_error() == pytest.approx(gap, abs=1e-6)
    for output, row in enumerate(found.per_class()):
        given, called = labels == output, named == output
        both = (given & called).sum().item()
        assert row["accuracy"] == pytest.approx(both / given.sum().item(), abs=1e-6)
        assert row["precision"] == pytest.approx(both / called.sum().item(), abs=1e-6)


def test_complete_replaces_the_bundle_of_a_run(
    clone: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(clone.network, tmp_path / "bundle")
    record = (SeenImages("digits", {"0": "00000000000000ff"}, (3, 8)),)
    write_bundle(tmp_path / "bundle", replace(read_bundle(tmp_path / "bundle", CloningBlueprint), seen=record))
    assert main("complete", tmp_path / "bundle") == 0
    assert read_bundle(tmp_path / "bundle", CloningBlueprint).seen == record
    assert "complete; without the zoo its logits are the same, bit for bit" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    told = refused(capsys, "complete", tmp_path / "bundle", "--output", tmp_path / "full")
    assert "is there and no bundle" in told


def test_benchmark_tells_medians_beside_the_networks_of_the_zoo(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--batch-sizes", "1", "2", "--repeats", "2", "--runtimes", "eager", "--output", tmp_path / "times.csv")
    assert main("benchmark", bundle, *words) == 0
    rows = read_csv(tmp_path / "times.csv")
    names = [str(bundle), "resnet_digits of the zoo", "vit_digits of the zoo"]
    assert [(row["network"], row["batch_size"]) for row in rows] == [(n, size) for n in names for size in ("1", "2")]
    for row in rows:
        quartiles = [float(row[f"latency_ms{end}"]) for end in ("_lower_quartile", "", "_upper_quartile")]
        assert 0 < quartiles[0] <= quartiles[1] <= quartiles[2]
        assert float(row["images_per_second"]) == pytest.approx(1000 * int(row["batch_size"]) / quartiles[1], rel=0.01)
    assert "medians" in capsys.readouterr().out
    assert "--precision float16 is for GPUs" in refused(capsys, "benchmark", bundle, "--precision", "float16")


def test_a_refusal_of_the_real_command_is_one_line_and_status_2(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "deploy", "describe", str(tmp_path / "nowhere")]
    finished = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"error: {tmp_path}/nowhere does not exist")
    assert finished.stderr.count("\n") == 1
