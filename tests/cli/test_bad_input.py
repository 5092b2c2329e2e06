"""Bad input: one line that says what was given, what is allowed and what to type; a failing status; nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import run

COMPOSITION = {  # refused while the configuration is put together, before torch models or data are touched
    "unknown option of a group": (["zoo=embeded"], ["zoo=embeded", "embedded"]),
    "unknown option of a nested group": (
        ["experiment=pretrain/none"],
        ["experiment=pretrain/none", "pretrain/resnet_digits"],
    ),
    "misspelt key": (["partition.num_block=3"], ["partition.num_block", "partition.num_blocks"]),
    "misspelt group": (["datset=digits"], ["datset", "dataset"]),
    "value of the wrong type": (["partition.num_blocks=three"], ["three", "partition.num_blocks"]),
    "number where a truth value belongs": (["skip_completed=maybe"], ["maybe", "skip_completed"]),
    "appended key": (["+budget.max_watts=3"], ["max_watts"]),
    "unreadable override": (["budget.max_params=[1"], ["budget.max_params=[1"]),
    "budget upside down": (
        ["budget.min_params=300000", "budget.max_params=200000"],
        ["300000", "200000", "budget.min_params"],
    ),
    "negative budget": (["budget.max_macs=-1"], ["-1", "budget.max_macs"]),
    "no finalist": (["finalists=0"], ["finalists=0"]),
    "unknown measure": (["similarity.measure=cosine"], ["cosine", "linear_cka"]),
    "unknown proxy": (["proxy.name=oracle"], ["oracle", "ridge"]),
    "kernel that is none": (["adapter.kernel_size=5"], ["5"]),
    "network without baseline": (["method.network=resnet_digits"], ["method=baseline"]),
}

EXECUTION = {  # refused by what the configuration names
    "K larger than a chain": ("search.py", ["partition.num_blocks=40"], ["40", "partition.num_blocks="]),
    "budget nothing fits": (
        "search.py",
        ["budget.max_params=100"],
        ["budget.max_params=100", "type budget.max_params="],
    ),
    "missing weights file": (
        "search.py",
        ["zoo.networks.resnet_digits.weights.file=nowhere.safetensors"],
        ["resnet_digits", "nowhere.safetensors"],
    ),
    "zoo entry with an unknown field": ("search.py", ["+zoo.networks.resnet_digits.wieghts=x"], ["wieghts", "weights"]),
    "data folder that does not exist": ("search.py", ["dataset=image_folder", "dataset.root=nowhere"], ["nowhere"]),
    "more images than there are": ("search.py", ["dataset.num_train=5000"], ["5000", "dataset.num_train"]),
    "unknown network of the baseline": (
        "train.py",
        ["method=baseline", "method.network=resnet"],
        ["resnet", "resnet_digits"],
    ),
    "blueprint that does not exist": ("train.py", ["blueprint=nowhere.yaml"], ["nowhere.yaml"]),
    "resume of what is no run": ("train.py", ["resume=nowhere"], ["nowhere"]),
}


@pytest.mark.parametrize(("overrides", "told"), COMPOSITION.values(), ids=COMPOSITION)
def test_composition(overrides: list[str], told: list[str], tmp_path: Path) -> None:
    finished = run("search.py", *overrides, "output_dir=out", cwd=tmp_path)
    assert [part for part in told if part not in finished.error] == []
    assert list(tmp_path.iterdir()) == []


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
