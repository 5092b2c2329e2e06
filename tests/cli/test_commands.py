"""The commands as users type them, on the embedded zoo and real digits."""

from __future__ import annotations

import csv
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.cli.conftest import read_result, run, run_process, run_until_killed

HEAVY = {"timm", "torchvision", "torch._dynamo", "pytorch_lightning", "matplotlib", "scipy", "sklearn", "wandb"}
"""What a search that finds everything in the cache does without."""

# Two networks and few images: what is tested here are the commands, not the search.
SMALL = [
    "~zoo.networks.resnext_low",
    "~zoo.networks.vit_digits",
    "~zoo.networks.mixer_inverted",
    "~zoo.networks.mobilenetv3_rotation",
    "~zoo.networks.convnext_odd",
    "partition=k2",
    "finalists=1",
    "proxy.num_draws=1",
    "proxy.num_images=100",
    "similarity.num_probe_images=100",
    "dataset.num_train=100",
    "dataset.num_validation=50",
    "dataset.num_test=100",
]


@pytest.fixture(scope="module")
def searched(once: Callable[..., Path], cache: str) -> Path:
    """The directory of a search."""
    return once("searched", "search.py", *SMALL, cache, tells="blueprint.yaml")


def figures(*names: str) -> set[str]:
    return {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}


def test_search_writes_blueprint_table_figures_and_result(searched: Path) -> None:
    assert {path.name for path in searched.iterdir()} == {
        ".lock",
        "blueprint.yaml",
        "candidates.csv",
        *figures("candidates", "drawing", "partition", "similarity"),
        "config.yaml",
        "data_manifest.jsonl.gz",
        "identity.json",
        "job.log",
        "result.json",
    }
    result = read_result(searched)
    assert result["status"] == "completed"
    assert result["partition"]["objective"] <= result["partition"]["upper_bound"] + 1e-9
    assert result["num_parameters"] <= 200_000
    with (searched / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picked"] for row in rows] == ["1"] + ["0"] * (len(rows) - 1)
    assert max(float(row["score_ridge"]) for row in rows) == float(rows[0]["score_ridge"]) == result["metrics"]["ridge"]
    assert int(rows[0]["num_params"]) == result["num_parameters"]
    assert {row["kind"] for row in rows} >= {"assembly", "truncated"}


def test_a_second_search_reuses_every_stage_and_a_changed_setting_what_does_not_depend_on_it(
    searched: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPROFILEIMPORTTIME", "1")  # lists all imports on stderr
        finished = run_process("search.py", *SMALL, cache, "output_dir=again", cwd=tmp_path)
    assert finished.code == 0
    loaded = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines() if "|" in line}
    assert "torch" in loaded
    assert loaded & HEAVY == set()
    again = tmp_path / "again"
    assert set(read_result(again)["reused"]) == {"features", "similarity", "partition", "scores"}
    for name in ("blueprint.yaml", "candidates.csv", "candidates.png", "partition.png", "similarity.png"):
        assert (again / name).read_bytes() == (searched / name).read_bytes()
    assert run("search.py", *SMALL, cache, "proxy=logme", "output_dir=other", cwd=tmp_path).code == 0
    assert set(read_result(tmp_path / "other")["reused"]) == {"features", "similarity", "partition"}


def test_a_damaged_cache_entry_is_refused_by_name(searched: Path, cache: str, tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(cache.partition("=")[2], root)
    for entry in (root / "partition").glob("*.entry"):
        entry.write_bytes(entry.read_bytes()[:-3])
    arguments = ["search.py", *SMALL, f"cache.root={root}", "output_dir=out"]
    finished = run(*arguments, cwd=tmp_path)
    assert "damaged" in finished.error
    assert "cache.rebuild_damaged=true" in finished.error
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "cache.rebuild_damaged=true", cwd=tmp_path).code == 0
    assert (tmp_path / "out" / "blueprint.yaml").read_bytes() == (searched / "blueprint.yaml").read_bytes()


@pytest.fixture(scope="module")
def tuned(searched: Path, once: Callable[..., Path], cache: str) -> Path:
    """The directory of a Freeze-Tuning of what that search found."""
    return once("tuned", "train.py", *SMALL, cache, "tuning.num_epochs=4", tells="bundle/weights.safetensors")


def test_train_tunes_what_the_search_found(searched: Path, tuned: Path) -> None:
    result = read_result(tuned)
    assert result["metrics"]["val_accuracy"] >= result["metrics"]["start_val_accuracy"]
    assert 0 < result["num_trained_parameters"] < result["num_parameters"] <= 200_000
    blueprint = yaml.safe_load((tuned / "blueprint.yaml").read_text())
    assert blueprint["blocks"] == yaml.safe_load((searched / "blueprint.yaml").read_text())["blocks"]
    assert {path.name for path in (tuned / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}


def test_a_sweep_of_two_processes_a_job_has_one_table_and_one_offline_run_a_job(cache: str, tmp_path: Path) -> None:
    settings = ["method=baseline", "method.network=resnet_digits", "tuning.head.max_images=20", "tuning.num_epochs=2"]
    finished = run_process(
        "train.py",
        "-m",
        *SMALL,
        cache,
        *settings,
        "tuning.loss=auto,loo",  # the second needs all images, which only the training finds out
        "trainer=ddp",  # whose two processes make a job of the sweep, and not the sweep anew
        "trainer.accelerator=cpu",
        "logger=wandb_offline",
        "output_dir=sweep",
        cwd=tmp_path,
    )
    assert finished.code == 1
    assert finished.stderr.count("sweep/0/result.json") == 1
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["completed", "failed"]
    assert float(rows[0]["test_accuracy"]) > 0.5
    assert "tuning.loss=loo needs all training images" in rows[1]["error"]
    assert "job 1 failed (loss=loo)" in finished.stdout
    assert len(list((tmp_path / "sweep" / "0" / "wandb").glob("offline-run-*/*.wandb"))) == 1

    assert run("train.py", *SMALL, cache, *settings, "output_dir=one", cwd=tmp_path).code == 0
    one, two = read_result(tmp_path / "one"), read_result(tmp_path / "sweep" / "0")
    assert two["val_accuracies"] == pytest.approx(one["val_accuracies"], abs=1e-6)
    assert two["metrics"]["test_accuracy"] == pytest.approx(one["metrics"]["test_accuracy"], abs=1e-6)


def test_a_chain_of_trainings_begins_with_one_that_all_its_jobs_and_later_commands_share(
    searched: Path, cache: str, tmp_path: Path
) -> None:
    for label, brightness in itertools.product(("dark", "bright"), range(12)):
        path = tmp_path / "photos" / label / f"{brightness}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 16), brightness + (200 if label == "bright" else 20)).save(path)
    common = [
        *(word for word in SMALL if word.startswith("~")),
        cache,
        "experiment=transfer",
        f"blueprint={searched / 'blueprint.yaml'}",
        "parent.dataset.num_train=60",
        "parent.tuning.num_epochs=1",
        "tuning.num_epochs=1",
    ]
    sizes = [f"dataset.num_{split}=50" for split in ("train", "validation", "test")]
    together = ["trainer=ddp", "trainer.accelerator=cpu"]  # two processes train the parent, and the job along with it
    chain = run_process("train.py", *common, *sizes, *together, "dataset=digits", cwd=tmp_path)
    assert chain.code == 0, chain.stderr
    with next((tmp_path / "runs" / "sweeps").glob("*/sweep.csv")).open(newline="") as file:
        assert [read_result(tmp_path / row["directory"])["data"]["name"] for row in csv.DictReader(file)] == ["digits"]
    folder = ["dataset=image_folder", "dataset.name=photos", "dataset.root=photos"]
    again = run("train.py", *common, *folder, cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert (chain.stderr.count("first, on parent.dataset"), again.stderr.count("completed before")) == (1, 1)
    runs = {path.name.split("-")[1]: path for path in (tmp_path / "runs" / "train").glob("[!.]*")}  # no locks
    assert runs.keys() == {"mnist5k", "digits", "photos"}
    parent = read_result(runs.pop("mnist5k"))
    for data, directory in runs.items():
        steps = read_result(directory)["provenance"][-2:]
        assert [(step["step"], step["data"]) for step in steps] == [("tuned", "mnist5k"), ("tuned", data)]
        assert steps[1]["parent"] == parent["bundle_digest"]
    blueprint = yaml.safe_load((runs["photos"] / "bundle" / "blueprint.yaml").read_text())
    assert sorted(blueprint["head"]["classes"]) == ["bright", "dark"]


def test_a_killed_run_continues_to_the_same_numbers(cache: str, tmp_path: Path) -> None:
    settings = [*SMALL, cache, "method=baseline", "method.network=resnet_digits", "tuning.num_epochs=6"]
    assert run("train.py", *settings, "output_dir=whole", cwd=tmp_path).code == 0
    run_until_killed(*settings, run_dir=tmp_path / "killed")
    refused = run("train.py", "resume=killed", "tuning.num_epochs=2", cwd=tmp_path)
    assert "tuning.num_epochs" in refused.error
    finished = run("train.py", "resume=killed", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    whole, resumed = tmp_path / "whole", tmp_path / "killed"
    assert read_result(resumed)["val_accuracies"] == read_result(whole)["val_accuracies"]
    assert read_result(resumed)["metrics"] == read_result(whole)["metrics"]
    first, second = (load_file(directory / "bundle" / "weights.safetensors") for directory in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert curves(resumed) == curves(whole)


def curves(directory: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` without what differs from one run to the next."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("train/images_per_s", "train/memory_mib")} for row in rows]


@pytest.mark.parametrize("script", ["search.py", "train.py"])
def test_help_is_short_and_names_the_groups(script: str, tmp_path: Path) -> None:
    finished = run(script, "--help", cwd=tmp_path)
    assert finished.code == 0
    assert f"python {script}" in finished.stdout
    assert "budget: 10m_3g" in finished.stdout
    assert list(tmp_path.iterdir()) == []
