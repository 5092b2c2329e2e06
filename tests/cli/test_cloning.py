"""Cloning as users type it, on the embedded zoo and real digits."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cloning.__main__ import main as cloning
from tests.cli.conftest import PROJECT, read_result, run, run_until_killed
from zoo.digests import digest
from zoo.loading import load_network
from zoo.registry import read_zoo

# One source, few images and a short localisation: what is tested here are the commands, not the method.
SMALL = [
    "method=cloning",
    "task.classes=[0,1,2,3,4,5,6,8]",
    "task.sources=[regnety_even]",
    "localisation.num_steps=16",
    "localisation.keep=0.7",
    "localisation.num_images=16",
    "dataset.num_train=320",
    "dataset.num_validation=80",
    "dataset.num_test=160",
]
FIXED = [*SMALL, "insertion=fixed", "insertion.position=4"]
USED = ("resnext_low", "regnety_even")


@pytest.fixture(scope="module")
def searched(once: Callable[..., Path], cache: str) -> Path:
    """The directory of a search over all positions."""
    return once("cloning-searched", "search.py", *SMALL, "insertion.num_epochs=2", cache, tells="blueprint.yaml")


@pytest.fixture(scope="module")
def tuned(once: Callable[..., Path], cache: str) -> Path:
    """The directory of a tuning at a fixed position."""
    overrides = [*FIXED, "tuning.num_epochs=20", cache]
    return once("cloning-tuned", "train.py", *overrides, tells="bundle/weights.safetensors")


def zoo_digests() -> dict[str, str]:
    """Of the networks used, loaded anew."""
    zoo = read_zoo(PROJECT / "conf" / "zoo" / "embedded.yaml")
    return {name: digest(load_network(zoo[name])) for name in USED}


def test_search_writes_blueprint_positions_figures_and_measures(searched: Path) -> None:
    assert {path.name for path in searched.iterdir()} == {
        ".lock",
        "blueprint.yaml",
        "config.yaml",
        "data_manifest.jsonl.gz",
        "front.csv",
        *(
            f"{name}{end}"
            for name in ("drawing", "front", "gates", "locality", "positions")
            for end in (".png", ".svg")
        ),
        "identity.json",
        "job.log",
        "positions.csv",
        "result.json",
    }
    result = read_result(searched)
    assert result["selection"]["kept"] == list("012345")
    assert result["selection"]["sources"] == [{"network": "regnety_even", "classes": ["6", "8"]}]
    assert result["restored"] == zoo_digests() == {name: result["digests"][name] for name in USED}
    with (searched / "positions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["position"]) for row in rows] == [*range(len(rows) - 1, -1, -1)]
    assert all(0 < int(row["num_features"]) <= 136 for row in rows)
    (chosen,) = (row for row in rows if row["chosen"] == "1")
    assert float(chosen["loss"]) <= 1.1 * min(float(row["loss"]) for row in rows)
    assert result["added_macs"] == int(chosen["added_macs"])
    assert 0 < result["added_macs_share"] < 1
    assert 0 < result["latency_ms"]["target"] < result["latency_ms"]["cloned"]
    assert yaml.safe_load((searched / "blueprint.yaml").read_text())["clones"][0]["position"] == int(chosen["position"])
    (locality,) = result["similarity"]
    assert set(locality["classes"]) == {"0", "2", "4", "6", "8"}
    assert locality["cloned"] > locality["random_cloned"]


def test_a_second_search_repeats_nothing_and_another_position_only_the_insertion(
    tuned: Path, cache: str, tmp_path: Path
) -> None:
    for name, overrides in (("again", FIXED), ("other", [*FIXED[:-1], "insertion.position=2"])):
        assert run("search.py", *overrides, cache, f"output_dir={name}", cwd=tmp_path).code == 0
    assert set(read_result(tmp_path / "again")["reused"]) == {"num_params", "localisation", "insertion"}
    assert set(read_result(tmp_path / "other")["reused"]) == {"num_params", "localisation"}
    assert (tmp_path / "again" / "blueprint.yaml").read_bytes() == (tuned / "blueprint.yaml").read_bytes()


def test_train_reports_accuracies_sizes_and_that_the_zoo_is_untouched(tuned: Path) -> None:
    result = read_result(tuned)
    metrics = result["metrics"]
    assert metrics["mean_group_accuracy"] == pytest.approx(
        (metrics["original_accuracy"] + metrics["cloned_accuracy"]) / 2
    )
    assert metrics["mean_group_accuracy"] > 0.7
    assert list(result["accuracies"]["classes"]) == list("01234568")
    assert (result["data"]["num_classes"], result["data"]["splits"]["test"]) == (8, 128)
    assert "images of 7, 9 are left out: the network has no output for them" in (tuned / "job.log").read_text()
    assert result["restored"] == zoo_digests()
    assert result["num_bytes"] > 0
    assert result["size_share"] < 0.03
    tensors = load_file(tuned / "bundle" / "weights.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"adapters", "head"}
    assert sum(tensor.numel() for tensor in tensors.values()) == result["num_trained_parameters"]


def test_full_tuning_works_on_copies(cache: str, tmp_path: Path) -> None:
    finished = run("train.py", *FIXED, "tuning=full", "tuning.num_epochs=1", cache, "output_dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    result = read_result(tmp_path / "out")
    assert result["restored"] == zoo_digests()
    assert result["num_trained_parameters"] > 100_000
    again = run(
        "train.py",
        *FIXED,
        cache,
        "blueprint=out/bundle",
        "tuning=full",
        "tuning.num_epochs=1",
        "output_dir=more",
        cwd=tmp_path,
    )
    assert again.code == 0, again.stderr


def test_strict_mode_keeps_the_closed_form_and_says_so(cache: str, tmp_path: Path) -> None:
    finished = run("train.py", *FIXED, "correction.exemplars=0", cache, "output_dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert "strict mode" in finished.stderr
    result = read_result(tmp_path / "out")
    assert result["choice"] == "start"
    assert result["metrics"]["original_accuracy"] > 0.5


def test_a_clone_travels_and_is_refused_when_damaged(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cloning(["pack", str(tuned), "clone.hz"]) == 0
    assert cloning(["unpack", "clone.hz", "--output", "bundle", "--zoo", "embedded"]) == 0
    assert "bit-equal" in capsys.readouterr().out
    sent, received = (load_file(path / "weights.safetensors") for path in (tuned / "bundle", tmp_path / "bundle"))
    assert sent.keys() == received.keys()
    assert all(torch.equal(sent[name], received[name]) for name in sent)

    content = bytearray((tmp_path / "clone.hz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.hz").write_bytes(content)
    assert cloning(["unpack", "flipped.hz", "--output", "nothing"]) == 2
    told = capsys.readouterr().err
    assert "damaged" in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "nothing").exists()


def test_a_killed_tuning_continues_to_the_same_numbers(tuned: Path, cache: str, tmp_path: Path) -> None:
    run_until_killed(*FIXED, cache, "tuning.num_epochs=20", run_dir=tmp_path / "killed")
    finished = run("train.py", "resume=killed", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    resumed = tmp_path / "killed"
    assert read_result(resumed)["metrics"] == read_result(tuned)["metrics"]
    first, second = (load_file(directory / "bundle" / "weights.safetensors") for directory in (tuned, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sweep_over_localisers(cache: str, tmp_path: Path) -> None:
    finished = run("search.py", "-m", *FIXED, "localisation=magnitude,random", cache, "output_dir=sweep", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["completed", "completed"]


BAD = {
    "position outside the chain": (
        ["insertion=fixed", "insertion.position=40"],
        ["insertion.position=40", "resnext_low", "0 (the input image)"],
    ),
    "no image of a cloned class": (["dataset.num_train=5"], ["no training image of class"]),
    "class the data lacks": (["dataset.classes=['0','1','2','3','4','5']"], ["no images of class '6'"]),
    "a budget below any clone's columns": (
        ["budget.max_macs=1000"],
        ["budget.max_macs=1000: no clones add so little; any add at least", "type a larger budget"],
    ),
    "a least size of clones": (["budget.min_macs=5"], ["budget of method=cloning", "max_params and max_macs"]),
}


@pytest.mark.parametrize(("overrides", "told"), BAD.values(), ids=BAD)
def test_bad_input(overrides: list[str], told: list[str], cache: str, tmp_path: Path) -> None:
    settings = [override for override in SMALL if override.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    finished = run("search.py", *settings, *overrides, cache, "output_dir=out", cwd=tmp_path)
    assert [part for part in told if part not in finished.error] == [], finished.error
    assert list(tmp_path.iterdir()) == []


def test_settings_of_cloning_are_refused_elsewhere(tmp_path: Path) -> None:
    finished = run("search.py", "task.classes=[0,1]", "output_dir=out", cwd=tmp_path)
    assert "method=cloning" in finished.error
    assert list(tmp_path.iterdir()) == []


def test_a_blueprint_over_a_zoo_that_changed_is_refused_by_name(searched: Path, cache: str, tmp_path: Path) -> None:
    finished = run(
        "train.py",
        *SMALL,
        cache,
        f"blueprint={searched / 'blueprint.yaml'}",
        "zoo.networks.regnety_even.weights=null",
        "output_dir=out",
        cwd=tmp_path,
    )
    assert "'regnety_even'" in finished.error
    assert "sha256" in finished.error
    assert list(tmp_path.iterdir()) == []
    wrong_method = run("train.py", cache, f"blueprint={searched}", "output_dir=out", cwd=tmp_path)
    assert "method=cloning" in wrong_method.error
