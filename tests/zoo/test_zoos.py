"""The zoos of conf/zoo: every network builds for its input and becomes a chain; EfficientNet-Lite knows its photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Small_Weights
from torchvision.transforms import v2

import zoo.weights
from launch.errors import CONF
from zoo.chain import Chain
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.loading import build_network, load_network
from zoo.registry import Zoo, read_zoo

ELSEWHERE = ("embedded", "timm_all")  # test_embedded, test_patterns
ZOOS = {path.stem: read_zoo(path) for path in sorted((CONF / "zoo").glob("*.yaml")) if path.stem not in ELSEWHERE}
PAPER, LITE = ZOOS["imagenet_paper"], ZOOS["efficientnet_lite"]
QUICK = ("edgenext_xx_small", "efficientnet_lite0", "mobilenetv4_conv_small", "levit_128s", "vit_base_mae")
SLOW = {
    *("regnety_3_2gf", "regnety_8gf", "regnety_16gf", "regnety_32gf"),  # torchvision builds them on the CPU alone
    *("cait_xxs24", "maxvit_tiny", "regnety_016", "swin_base", "swin_large", "swin_small", "vit_large"),
}


def cases(quick: Callable[[str], bool]) -> list[object]:
    """All networks of all zoos; those that are not quick are marked."""
    return [
        pytest.param(entry, id=f"{name}/{entry.name}", marks=() if quick(entry.name) else (pytest.mark.large,))
        for name, found in ZOOS.items()
        for entry in found.values()
    ]


def random_network(entry: ZooEntry) -> nn.Module:
    if entry.source == "torchvision" and entry.model.startswith("regnet"):
        return build_network(entry).to("meta").eval()
    with torch.device("meta"):
        return build_network(entry).eval()


@pytest.mark.parametrize("entry", cases(lambda name: name not in SLOW))
def test_every_network_is_built_for_its_input_and_has_weights(entry: ZooEntry):
    with torch.no_grad():
        outputs = random_network(entry)(entry.input.example().to("meta"))
    assert outputs.dim() == 2
    assert len(outputs) == 1
    assert entry.weights is not None
    assert entry.weights.hub or (entry.weights.file and (entry.weights.url or entry.weights.package))


@pytest.mark.parametrize("entry", cases(lambda name: name in QUICK))
def test_every_network_is_sliced_into_a_chain_for_four_blocks(entry: ZooEntry):
    chain = Chain.from_network(random_network(entry), entry.input.example().to("meta"), name=entry.name)
    chain.require_length(4)
    assert chain.costs.macs > 0
    assert chain.neck_dim > 0


def test_the_zoo_of_the_article_has_its_thirty_networks_of_21_architectures():
    assert len(PAPER) == 30
    assert len({(entry.source, entry.model) for entry in PAPER.values()} - {("timm", "resnet50")}) == 21


def test_small_networks_are_small():
    for entry in ZOOS["timm_small"].values():
        assert sum(parameter.numel() for parameter in random_network(entry).parameters()) < 12e6


# Files that the user brings, in the form in which their authors publish them, of smaller networks.


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def without(head: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(head)}


def projection(name: str) -> dict[str, Tensor]:
    return {f"{name}.0.weight": torch.ones(8, 8), f"{name}.2.weight": torch.ones(8, 8)}


def published(name: str) -> tuple[nn.Module, object]:
    """A trained network, and the checkpoint that its authors would have made of it."""
    if name == "resnet50_xray":
        network = torchvision.models.resnet18(num_classes=18)
        network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        return network, network.state_dict()
    if "moco_v3" in name:
        network = timm.create_model("vit_tiny_patch16_224", num_heads=12 if "small" in name else 3)
        state = without("head.", network.state_dict()) | projection("head")
        both = prefixed("module.base_encoder.", state) | prefixed("module.momentum_encoder.", state)
        return network, {"epoch": 300, "arch": "vit", "state_dict": both | prefixed("module.", projection("predictor"))}
    network = torchvision.models.resnet18()
    body = without("fc.", network.state_dict())
    states = {
        "resnet50_moco_v2": {
            **prefixed("module.encoder_q.", body | projection("fc")),
            **prefixed("module.encoder_k.", body | projection("fc")),
            "module.queue": torch.ones(128, 8),
        },
        "resnet50_byol": prefixed("backbone.", body) | prefixed("target_net.0.", body) | projection("neck"),
        "resnet50_simclr": prefixed("backbone.", body) | projection("neck"),
        "resnet50_inat2021": prefixed(
            "module.", body | {"fc.weight": torch.ones(10000, 512), "fc.bias": torch.ones(1)}
        ),
    }
    return network, {"meta": {"epoch": 200}, "state_dict": states[name]}


@pytest.mark.parametrize("name", [name for name, entry in PAPER.items() if entry.weights and entry.weights.file])
def test_files_that_no_package_serves_are_asked_for_and_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zoo.weights, "PROJECT_ROOT", tmp_path)
    entry = replace(PAPER[name], model="vit_tiny_patch16_224" if "vit" in name else "resnet18")
    assert entry.weights is not None
    with pytest.raises(UserError, match=f"{name}: .*{entry.weights.path} does not exist; download https://"):
        load_network(entry)
    network, checkpoint = published(name)
    entry.weights.path.parent.mkdir()
    torch.save(checkpoint, entry.weights.path)
    found = load_network(entry).state_dict()
    body = without("head.", without("fc.", network.state_dict()))
    assert len(body) > 100
    assert all(torch.equal(found[key], tensor) for key, tensor in body.items())


# Real ImageNet weights out of a package.


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """A palace and a flower with a bee, as EfficientNet-Lite 0 was evaluated: (2, 3, 224, 224) in [0, 1]."""
    crop = v2.Compose(
        [v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.ToDtype(torch.float32, True)]
    )
    return torch.stack([crop(torch.tensor(photo).permute(2, 0, 1)) for photo in load_sample_images().images])


def test_efficientnet_lite_classifies_real_photographs(photographs: Tensor):
    entry = LITE["efficientnet_lite0"]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (entry.input.mean, entry.input.std))
    with torch.no_grad():
        logits = load_network(entry)((photographs - mean) / std)
    names = MobileNet_V3_Small_Weights.DEFAULT.meta["categories"]
    assert [names[index] for index in logits.argmax(1)] == ["palace", "daisy"]
    # What the network of the package efficientnet-lite-pytorch gives for the same images.
    torch.testing.assert_close(
        logits[:, [698, 985]], torch.tensor([[7.4919, 0.1675], [-0.7616, 7.4497]]), atol=1e-3, rtol=0
    )


def test_efficientnet_lite_takes_a_smaller_input_in_one_place():
    fields = {"name": "x", "input": {"height": 96, "width": 96}}
    found: Zoo = read_zoo({**fields, "networks": {"a": {"source": "timm", "model": "tf_efficientnet_lite2"}}})
    assert (found["a"].input.height, found["a"].input.mean) == (96, (0.5, 0.5, 0.5))
