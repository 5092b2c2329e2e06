"""Bad input: one line that says what was given, what is allowed and what to type; a failing status; nothing written.

A few of each kind; ``tests/faults/test_command_lines.py`` holds hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import run, run_process
from tests.cli.test_commands import SMALL

COMPOSITION = {
    "unknown option of a group": ("search.py", ["zoo=embeded"], ["zoo=embeded", "embedded"]),
    "type of an argument": ("search.py", ["dataset.num_train=1e3"], ["type dataset.num_train=1000"]),
    "seed": ("train.py", ["seed=-1"], ["seed=-1", "4294967295"]),
}

EXECUTION = {  # refused by what the configuration names
    "K larger than a chain": ("search.py", [*SMALL, "partition.num_blocks=40"], ["40", "partition.num_blocks="]),
    "budget nothing fits": (
        "search.py",
        [*SMALL, "budget.max_params=100"],
        ["budget.max_params=100", "type budget.max_params="],
    ),
    "missing weights file": (
        "search.py",
        ["zoo.networks.resnet_digits.weights.file=nowhere.safetensors"],
        ["resnet_digits", "nowhere.safetensors"],
    ),
    "data folder that does not exist": ("search.py", ["dataset=image_folder", "dataset.root=nowhere"], ["nowhere"]),
}


@pytest.mark.parametrize(("script", "overrides", "told"), COMPOSITION.values(), ids=COMPOSITION)
def test_composition(script: str, overrides: list[str], told: list[str], tmp_path: Path) -> None:
    finished = run(script, *overrides, "output_dir=out", cwd=tmp_path)
    assert finished.code == 2
    assert [part for part in told if part not in finished.error] == []
    assert list(tmp_path.iterdir()) == []


def test_as_a_process(cache: str, tmp_path: Path) -> None:
    finished = run_process("search.py", "dataset.num_train=5000", "output_dir=out", cache, cwd=tmp_path)
    assert finished.code == 2
    assert "5000" in finished.error
    assert "dataset.num_train" in finished.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ("  a: {source: timm, model: resnet18}\n  a: {source: timm, model: resnet34}\n", "line 4, column 3: found dup"),
        ("  a: {source: timm, model: [resnet18}\n", "line 3, column 37: expected ',' or ']'"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_the_place(networks: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "zoo" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"name: mine\nnetworks:\n{networks}")
    finished = run("search.py", f"--config-dir={tmp_path}", "zoo=mine", cwd=tmp_path)
    assert finished.code == 2
    assert finished.error.startswith(f"error: {file}, {told}")
    assert len(finished.error.splitlines()) == 1


def test_data_that_cannot_be_read_is_told_before_the_first_job_of_a_sweep(tmp_path: Path) -> None:
    finished = run("train.py", "experiment=transfer", "dataset=digits,caltech101", cwd=tmp_path)
    assert finished.code == 2
    assert finished.error.startswith("error: dataset=caltech101 experiment=transfer: dataset.root=data")
    assert list(tmp_path.iterdir()) == []


def test_that_settings_and_zoo_are_read_is_shown_until_they_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[None]:
        shown.append(what)
        yield
        shown.append("done")

    monkeypatch.setattr("zoo.progress.progress", progress)
    finished = run("search.py", "zoo.networks.resnet_digits.source=nosuch", cwd=tmp_path)
    assert "nosuch" in finished.error
    assert shown == ["reading settings and zoo"]


@pytest.mark.parametrize(("script", "overrides", "told"), EXECUTION.values(), ids=EXECUTION)
def test_execution(script: str, overrides: list[str], told: list[str], cache: str, tmp_path: Path) -> None:
    finished = run(script, *overrides, "output_dir=out", cache, cwd=tmp_path)
    assert [part for part in told if part not in finished.error] == []
    assert list(tmp_path.iterdir()) == []


BLUEPRINT = """\
format: huozi-blueprint/1
method: reassembly
blocks:
  - {network: NETWORK, nodes: [0, 3]}
adapters: []
head: {num_classes: 10}
networks: {NETWORK: "sha256:DIGEST"}
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("NETWORK", "resnet"), ["'resnet'", "resnet_digits"]),
        (("head:", "haed:"), ["haed", "head"]),
        (("[0, 3]", "[0, 99]"), ["resnet_digits", "99"]),
        (("", ""), ["resnet_digits", "digest", "sha256"]),
    ],
    ids=["unknown network", "unknown field", "nodes outside", "other weights"],
)
def test_blueprint(change: tuple[str, str], told: list[str], cache: str, tmp_path: Path) -> None:
    text = BLUEPRINT.replace(*change) if change[0] else BLUEPRINT
    text = text.replace("NETWORK", "resnet_digits").replace("DIGEST", "0" * 64)
    (tmp_path / "recipe.yaml").write_text(text)
    finished = run("train.py", "blueprint=recipe.yaml", "output_dir=out", cache, cwd=tmp_path)
    assert any(part in finished.error for part in told), finished.error
    assert not (tmp_path / "out").exists()
