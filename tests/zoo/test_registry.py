"""Zoo files, and networks found in them by a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.errors import CONF
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.registry import find_entry, read_zoo, require_files

ZOOS = CONF / "zoo"
EMBEDDED = read_zoo(ZOOS / "embedded.yaml")
ONE_PIXEL = {"channels": 1, "height": 1, "width": 1, "mean": [0.5], "std": [0.5]}


def zoo_of(network: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "mine", "networks": {"net": network}, **fields}


def test_reads_the_same_zoo_from_a_file_and_from_a_mapping():
    path = ZOOS / "embedded.yaml"
    assert dict(read_zoo(path)) == dict(read_zoo(yaml.safe_load(path.read_text()))) == dict(EMBEDDED)


def test_input_falls_back_to_the_zoo_then_to_the_published_weights():
    own = {"channels": 1, "height": 32, "width": 48, "mean": [0], "std": [1]}
    network = {"source": "timm", "model": "vit_tiny_patch16_224"}
    assert read_zoo(zoo_of(network | {"input": own}))["net"].input == InputSpec(
        1, 32, 48, (0.0,), (1.0,), "bicubic", crop_pct=0.9
    )
    assert read_zoo(zoo_of(network, input=own))["net"].input.width == 48
    published = read_zoo(zoo_of(network))["net"].input
    assert (published.channels, published.height, published.mean) == (3, 224, (0.5, 0.5, 0.5))
    grey = read_zoo(zoo_of(network | {"kwargs": {"in_chans": 1, "img_size": 32}}))["net"].input
    assert (grey.channels, grey.height, grey.width, grey.mean) == (1, 32, 32, (0.5,))
    vision = read_zoo(zoo_of({"source": "torchvision", "model": "resnet18"}))["net"].input
    assert (vision.height, vision.interpolation) == (224, "bilinear")


def test_what_input_leaves_open_is_that_of_the_published_weights_their_tag_included():
    network = {"source": "timm", "model": "tf_efficientnet_b0"}
    part = read_zoo(zoo_of(network | {"input": {"height": 96}}, input={"height": 64, "width": 128}))["net"].input
    assert (part.height, part.width, part.channels, part.interpolation) == (96, 128, 3, "bicubic")
    for tag, mean in [("aa_in1k", 0.485), ("ap_in1k", 0.5)]:
        assert read_zoo(zoo_of(network | {"weights": {"hub": tag}}))["net"].input.mean[0] == mean
    grey = read_zoo(zoo_of(network | {"input": {"channels": 1}}))["net"].input
    assert grey.mean == (0.449,)
    with pytest.raises(UserError, match="no weights 'nowhere'"):
        read_zoo(zoo_of(network | {"weights": {"hub": "nowhere"}}))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"source": "timm", "model": "resnet18", "wieghts": None}, "did you mean 'weights'"),
        ({"source": "timm", "model": "resnet18", "weights": {"fil": "x"}}, "did you mean 'file'"),
        ({"source": "timm", "model": "resnet18", "weights": {}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "file": "x"}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "match": "order"}}, "belong to `file`"),
        ({"source": "timm", "model": "resnet18", "weights": {"file": "x", "match": "shape"}}, "name or order"),
        ({"source": "timm", "model": "resnet18", "classes": ["a", "b", "a"]}, "^zoo: net: classes given twice: a"),
        ({"source": "timm", "model": "resnet18", "classes": ["0", True]}, "expected text .put it in quotes"),
        ({"source": "timm", "model": "resnet18", "classes": "ab"}, "expected a list"),
        ({"source": "timm", "model": "resnet18", "kwargs": [1]}, "expected a mapping"),
        ({"source": "timm"}, "net"),
        ({"source": "keras", "model": "resnet18", "input": ONE_PIXEL}, "module:factory"),
        ({"model": "resnet18"}, "source"),
        ({"source": "my_factories:network"}, "input"),
        ({"source": "my_factories:network", "model": "a", "input": {}}, "missing field"),
        ({"source": "timm", "model": "resnet81"}, "did you mean resnet18"),
        (["timm"], "expected a mapping"),
    ],
)
def test_refuses_wrong_entries_in_one_line(network: Any, told: str):
    with pytest.raises(UserError, match=told) as refusal:
        read_zoo(zoo_of(network))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 3, "height": 8, "width": 8, "mean": [0.5], "std": [1, 1, 1]},
        {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0]},
        {"channels": 1, "height": 0, "width": 8, "mean": [0.5], "std": [1]},
    ],
)
def test_refuses_wrong_input(wrong: dict[str, Any]):
    with pytest.raises(UserError, match="input"):
        read_zoo(zoo_of({"source": "timm", "model": "resnet18"}, input=wrong))


def test_refuses_wrong_zoo_files(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read_zoo(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no network"):
        read_zoo({"name": "empty", "networks": {}})
    with pytest.raises(UserError, match="did you mean 'networks'"):
        read_zoo({"name": "x", "network": {}})


def test_finds_entries_by_word():
    assert find_entry("vit_digits", ZOOS) == find_entry("embedded/vit_digits", ZOOS) == EMBEDDED["vit_digits"]
    assert find_entry("timm:resnet18", ZOOS).model == "resnet18"
    assert find_entry("torchvision:resnet18", ZOOS).source == "torchvision"
    assert find_entry("my_factories:network", ZOOS).source == "my_factories:network"
    with pytest.raises(UserError, match="embedded is a zoo: write embedded/vit_digits"):
        find_entry("embedded:vit_digits", ZOOS)
    for word, told in [("vit_digit", "did you mean 'vit_digits'"), ("timm:resnet81", "did you mean resnet18")]:
        with pytest.raises(UserError, match=told):
            find_entry(word, ZOOS)
    with pytest.raises(UserError, match="did you mean 'vit_digits'"):
        EMBEDDED.entry("vit_digit")


def test_all_missing_files_of_a_zoo_are_told_at_once(tmp_path: Path) -> None:
    networks = {
        name: {"source": "timm", "model": "resnet18", "weights": {"file": str(tmp_path / f"{name}.pth"), **more}}
        for name, more in (("here", {}), ("lost", {}), ("far", {"url": "https://example.org/far.pth"}))
    }
    (tmp_path / "here.pth").touch()
    with pytest.raises(UserError, match=r"lost: .*lost.pth does not exist.*; far: .*download https://example.org"):
        require_files(read_zoo({"networks": networks}))


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        (
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            r"give mean: \[0.485, 0.456, 0.406\], std: \[0.229, 0.224,",
        ),
        ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), r"mean: \[0.406, 0.456, 0.485\], std: \[0.003922, 0.003922,"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), r"input.std \[58.4, 57.12, 57.38\]: .* give std: \[0.229,"),
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), r"give std: \[1, 1, 1\]"),
        ((32768.0,) * 3, (1000.0,) * 3, "not to 65535"),
        ((0.0019, 0.0018, 0.0016), (0.0009,) * 3, r"divided by 255 once too often .* give mean: \[0.4845,"),
        ((-0.5, 0.0, 0.0), (0.5,) * 3, "expected values from 0 to 1"),
        ((0.5, 0.5), (0.5,) * 3, "got 2 values for 3 channels"),
        ((0.5,) * 3, (0.5, 0.0, 0.5), "expected values above 0"),
        ((0.5,) * 3, (0.5, -0.2, 0.5), "expected values above 0"),
        ((0.5,) * 3, (0.5, float("nan"), 0.5), "input.std: got .*nan.*, expected finite numbers"),
        ((float("inf"),) * 3, (0.5,) * 3, "input.mean: got .*inf.*, expected finite numbers"),
    ],
)
def test_statistics_of_another_scale_are_refused(mean: tuple[float, ...], std: tuple[float, ...], told: str):
    with pytest.raises(UserError, match=told) as error:
        InputSpec(3, 8, 8, mean, std)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1 / 2048), (0.0, 1.0), (0.0, 1 / 255), (1.0, 0.5), (0.13, 0.31)])
def test_statistics_of_images_from_0_to_1_are_taken(mean: float, std: float):
    assert InputSpec(1, 8, 8, (mean,), (std,)).mean == (mean,)
