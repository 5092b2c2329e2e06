"""The neck is the original final norm and pooling, and never a layer of the head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from zoo import Chain
from zoo.chain.costs import count

SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1), "num_heads": (1, 2, 3)}
VIT = {"img_size": 64, "depth": 2}


def neck_features(network: nn.Module, x: torch.Tensor) -> tuple[Chain, torch.Tensor, torch.Tensor]:
    """The chain, the neck's features, and the tensor that goes into the neck."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    chain = Chain.from_network(network, x)
    network.eval()
    with torch.no_grad():
        last = chain.block(0, len(chain) - 1)(x)
        return chain, chain.neck()(last), last


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet18", {}),
        ("resnetv2_50", {}),
        ("regnety_002", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", VIT),
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {**VIT, "num_classes": 0}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2}),
        ("beit_base_patch16_224", {**VIT, "embed_dim": 24, "num_heads": 2}),
        ("swin_tiny_patch4_window7_224", SWIN),
        ("mixer_s32_224", {"img_size": 64}),
        ("poolformer_s12", {}),
        ("xcit_nano_12_p16_224", {"depth": 2}),
    ],
)
def test_it_is_what_the_original_classifier_reads(name: str, kwargs: dict) -> None:
    network = timm.create_model(name, **kwargs)
    size = kwargs.get("img_size", 64)
    x = torch.randn(2, 3, size, size)
    chain, features, _ = neck_features(network, x)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    assert torch.equal(features, expected)
    assert chain.neck_dim == features.shape[1]


@pytest.mark.parametrize(
    ("name", "dim"), [("mobilenetv3_small_050", 288), ("tf_efficientnet_lite0", 320), ("ghostnet_050", 480)]
)
def test_a_convolution_in_the_head_is_left_out(name: str, dim: int) -> None:
    chain, features, last = neck_features(timm.create_model(name), torch.randn(2, 3, 64, 64))
    assert chain.neck_dim == dim
    assert chain.neck_costs.num_params == 0
    torch.testing.assert_close(features, last.mean((2, 3)))


def test_hidden_layers_of_the_head_are_left_out() -> None:
    network = torchvision.models.mobilenet_v3_small(weights=None)
    chain, features, last = neck_features(network, torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features, last.mean((2, 3)))
    network = timm.create_model("maxvit_rmlp_pico_rw_256", img_size=64, depths=(1, 1, 1, 1), head_hidden_size=7)
    chain, features, last = neck_features(network, torch.randn(2, 3, 64, 64))
    norm = chain.network.head.norm
    with torch.no_grad():
        torch.testing.assert_close(features, norm(last.permute(0, 3, 1, 2).mean((2, 3), keepdim=True)).flatten(1))


def test_class_attention_in_the_head_is_left_out() -> None:
    """Class tokens that join in the head know nothing of the image yet: the patches are averaged."""
    network = timm.create_model("cait_xxs24_224", img_size=64, depth=2)
    _, features, last = neck_features(network, torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features, last.mean(1))


def test_attention_pooling_is_left_out() -> None:
    network = timm.create_model("vit_base_patch16_siglip_224", img_size=64, depth=2, embed_dim=24, num_heads=2)
    _, features, last = neck_features(network, torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(features, network.norm(last).mean(1))


def test_a_flattening_head_keeps_every_position() -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    pooled = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 10), nn.ReLU(), nn.Linear(10, 3))
    network = nn.Sequential(*layers, *pooled)
    chain, features, last = neck_features(network, torch.randn(2, 3, 8, 8))
    assert [str(chain.signal(i)) for i in range(len(chain))] == ["NCHW 3 @8x8", "NCHW 4 @8x8", "NCHW 4 @8x8"]
    assert torch.equal(features, layers[-1](last).flatten(1))
    assert chain.neck_dim == 64


@pytest.mark.parametrize(
    "create",
    [
        lambda: timm.create_model("resnet18"),
        lambda: timm.create_model("mobilenetv3_small_050"),
        lambda: timm.create_model("ghostnet_050"),
        lambda: timm.create_model("tf_efficientnet_lite0"),
        lambda: torchvision.models.squeezenet1_1(),
        lambda: torchvision.models.shufflenet_v2_x0_5(),
    ],
    ids=["resnet", "mobilenet", "ghostnet", "efficientnet", "squeezenet", "shufflenet"],
)
def test_its_costs_are_its_own_though_nothing_was_asked_before(create: Callable[[], nn.Module]) -> None:
    """What runs to find the neck, convolutions of the head among it, is no part of what it costs."""
    chain = Chain.from_network(create(), torch.randn(1, 3, 64, 64))
    found = chain.neck_costs
    x = torch.empty(chain.signal(len(chain) - 1).shape(1))
    assert found == count(chain.neck(), x)
    assert found.macs <= 4 * x.numel()
