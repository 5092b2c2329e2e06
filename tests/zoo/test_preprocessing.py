"""What lies beside weights says how their network wants its images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.preprocessing import stored_input
from zoo.registry import read_zoo

VIT = {"do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5] * 3}
VIT |= {"image_std": [0.5] * 3, "image_processor_type": "ViTImageProcessor"}
CLIP = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
CLIP |= {"resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "resample": 3, "image_mean": [0.5] * 3}
CONVNEXT |= {"image_std": [0.5] * 3}
TIMM = {"architecture": "x", "pretrained_cfg": {"input_size": [3, 288, 288], "mean": [0.5] * 3, "std": [0.5] * 3}}
TIMM["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "squash", "url": ""}


def folder(root: Path, content: object, name: str = "preprocessor_config.json") -> Path:
    (root / name).write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (VIT, InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")),
        (VIT | {"size": 224}, InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")),
        (CLIP, InputSpec(3, 224, 224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "bicubic", 224 / 256)),
        (CLIP | {"size": {"height": 256, "width": 256}, "do_normalize": False},
         InputSpec(3, 224, 224, (0.0,) * 3, (1.0,) * 3, "bicubic", 224 / 256, "squash")),
        (CONVNEXT | {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
         InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)),
        (CONVNEXT | {"size": 384}, InputSpec(3, 384, 384, (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, "squash")),
        (VIT | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
         InputSpec(3, 224, 224, (0.5,) * 3, (0.2,) * 3, "bilinear", 1.0, "squash")),
        (VIT | {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
         InputSpec(3, 224, 224, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")),
    ],
)  # fmt: skip
def test_image_processors_of_transformers(content: dict, expected: InputSpec, tmp_path: Path) -> None:
    found = stored_input(folder(tmp_path, content))
    assert InputSpec(**{**found, "mean": tuple(found["mean"]), "std": tuple(found["std"])}) == expected


@pytest.mark.parametrize("change", [{"resample": 1}, {"do_resize": False}, {"size": {"longest_edge": 9}}], ids=str)
def test_what_cannot_be_said_is_refused(change: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocessor_config.json: its preprocessing is not understood"):
        stored_input(folder(tmp_path, VIT | change))


def test_an_entry_takes_what_lies_beside_its_weights_and_may_say_otherwise(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    weights = {"file": str(tmp_path / "w.safetensors")}

    def spec(**fields: object) -> InputSpec:
        return read_zoo({"networks": {"net": {"weights": weights, **fields}}})["net"].input

    resnet = {"source": "timm", "model": "resnet18"}
    assert spec(**resnet).crop_pct == 0.95
    folder(tmp_path, TIMM, "config.json")
    assert (spec(**resnet).height, spec(**resnet).crop_mode) == (288, "squash")
    folder(tmp_path, CLIP)
    assert spec(source="my_factories:network").crop_pct == 224 / 256
    changed = spec(source="my_factories:network", input={"crop_pct": 0.5, "height": 96})
    assert (changed.crop_pct, changed.height, changed.width) == (0.5, 96, 224)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "config.json").write_text("learning_rate = 0.1")
    assert spec(**resnet).crop_pct == 0.95
