"""Evaluation brings images to a network as timm and torchvision do that published it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.nn import functional as F

from datamodules import Digits, ImageDataModule
from datamodules.images import ImagesInMemory, normalise, resize_and_crop
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.registry import published_input

SIZES = [(333, 500), (301, 202), (64, 64), (250, 251)]
HALF = ((0.5,) * 3, (0.5,) * 3)


def photograph(height: int, width: int) -> Tensor:
    """uint8 (3, height, width), smooth enough for a pixel's shift to show and rounding not to."""
    noise = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(height))
    smooth = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[0]
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def ours(image: Tensor, spec: InputSpec) -> Tensor:
    return normalise(resize_and_crop(image[None], spec), spec)[0]


def assert_same(image: Tensor, spec: InputSpec, theirs: Tensor) -> None:
    """Equal but for rounding: Pillow and torch differ by one of 255 in some pixels."""
    apart = (ours(image, spec) - theirs).abs() * torch.tensor(spec.std).view(-1, 1, 1) * 255
    assert ours(image, spec).shape == theirs.shape
    assert float(apart.max()) < 2.1
    assert float(apart.mean()) < 0.3


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(3, 224, 224, *HALF, "bicubic", 0.9),
        InputSpec(3, 224, 224, *HALF, "bilinear", 0.965),
        InputSpec(3, 224, 224, (0.2, 0.4, 0.6), HALF[1], "bicubic", 1.0, "border"),
        InputSpec(3, 224, 224, *HALF, "bicubic", 0.9, "squash"),
        InputSpec(3, 96, 160, *HALF, "bilinear", 0.875),
        InputSpec(3, 96, 96, *HALF, "bicubic", 1.15),
    ],
    ids=lambda spec: f"{spec.height}x{spec.width}-{spec.crop_pct}-{spec.crop_mode}",
)
def test_images_are_cut_as_timm_cuts_them(spec: InputSpec, size: tuple[int, int]) -> None:
    image = photograph(*size)
    transform = create_transform(
        (3, spec.height, spec.width),
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
    )
    assert_same(image, spec, transform(Image.fromarray(image.permute(1, 2, 0).numpy())))


@pytest.mark.parametrize("name", ["ResNet50_Weights.IMAGENET1K_V2", "Swin_T_Weights.IMAGENET1K_V1"])
def test_images_are_cut_as_torchvision_cuts_them(name: str) -> None:
    architecture, tag = name.partition("_Weights")[0].lower(), name.partition(".")[2]
    spec = published_input("torchvision", f"{architecture}.{tag}", {})
    theirs = torchvision.models.get_weight(name).transforms()
    for size in SIZES:
        image = photograph(*size)
        assert_same(image, spec, theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))


def test_every_network_keeps_what_was_published_of_it() -> None:
    for name in ("vit_base_patch16_siglip_224.webli", "resnet18.a1_in1k", "volo_d4_448.sail_in1k"):
        published, spec = timm.get_pretrained_cfg(name), published_input("timm", name, {})
        assert (spec.crop_pct, spec.crop_mode) == (published.crop_pct, published.crop_mode)
        assert spec.interpolation == published.interpolation
    assert published_input("torchvision", "efficientnet_b0", {}).crop_pct == 224 / 256


def test_the_data_may_ask_for_another_share_than_the_network() -> None:
    images = torch.stack([photograph(64, 64) for _ in range(4)])
    indices = torch.arange(4)
    options = {
        "name": "n",
        "source": ImagesInMemory(images, indices % 2),
        "splits": {"train": indices[:2], "val": indices[2:3], "test": indices[3:]},
        "class_names": "ab",
    }
    spec = InputSpec(3, 48, 48, *HALF, "bicubic", 0.8, "squash")
    as_published, whole = ImageDataModule(**options), ImageDataModule(**options, crop_fraction=1.0)
    found, _ = as_published.images("train", spec)
    assert torch.equal(found, normalise(resize_and_crop(images[:2], spec), spec))
    assert not torch.equal(found, whole.images("train", spec)[0])
    assert torch.equal(whole.images("train", spec)[0], whole.images("train", replace(spec, crop_pct=1.0))[0])
    as_published.use_input(spec)
    assert "squashed, 0.8 of the side cut out" in as_published.record["conversion"]


def test_drawings_are_shown_whole_to_networks_of_photographs() -> None:
    spec = InputSpec(1, 16, 16, (0.5,), (0.5,), "bilinear", 0.5)
    data = Digits()
    assert torch.equal(data.images("val", spec, 3)[0], data.images("val", replace(spec, crop_pct=1.0), 3)[0])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"crop_pct": 0.0}, "input.crop_pct"),
        ({"crop_pct": 87.5}, "input.crop_pct"),
        ({"crop_pct": float(np.nan)}, "input.crop_pct"),
    ],
)
def test_refuses_a_share_that_is_none(given: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        InputSpec(3, 8, 8, *HALF, **given)
