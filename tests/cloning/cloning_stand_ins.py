"""Small networks of several families with random weights, as chains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache, partial

import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork
from cloning.gates import num_gates
from cloning.network import ClonedNetwork
from datamodules import ImageDataModule
from datamodules.images import ImagesInMemory
from zoo.chain import Chain
from zoo.entries import InputSpec, ZooEntry
from zoo.registry import Zoo
from zoo.stitching.adapters import Adapter

ZOO = """
name: small
input: {channels: 1, height: 32, width: 32, mean: [0.5], std: [0.5]}
networks:
  low: {source: timm, model: resnet18, classes: [a, b, c],
        kwargs: {in_chans: 1, num_classes: 3, layers: [1, 1, 1, 1], channels: [8, 8, 12, 16]}}
  high: {source: timm, model: resnet18, classes: [d, e],
         kwargs: {in_chans: 1, num_classes: 2, layers: [1, 1, 1, 1], channels: [4, 8, 8, 12]}}
  rare: {source: timm, model: resnet18, classes: [f, g],
         kwargs: {in_chans: 1, num_classes: 2, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}}
"""
"""A zoo's file: a target and two sources, for whoever reads zoos by name."""

ARCHITECTURES = {
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 12, 16]}),
    "resnext": (
        "resnext50_32x4d",
        {"layers": [1, 1, 1, 1], "channels": [4, 4, 6, 8], "cardinality": 2, "base_width": 32},
    ),
    "regnety": ("regnety_002", {"w0": 24, "wa": 16.0, "wm": 1.8, "depth": 7, "group_size": 8, "stem_width": 8}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "convnext": ("convnext_atto", {"patch_size": 2, "depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}),
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3},
    ),
    "mixer": (MlpMixer, {"img_size": 32, "patch_size": 8, "num_blocks": 3, "embed_dim": 24}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 4]},
    ),
}


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Random weights and statistics everywhere, so that nothing is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + (parameter.ndim < 2) * 0.5)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network.eval()


@cache
def chain(family: str, num_classes: int = 5, seed: int = 0) -> Chain:
    """A chain for one-channel images of 32 x 32; shared between tests, which leave it as it is."""
    model, kwargs = ARCHITECTURES[family]
    with torch.random.fork_rng():
        build = partial(timm.create_model, model) if isinstance(model, str) else model
        network = build(in_chans=1, num_classes=num_classes, **kwargs)
    return Chain.from_network(randomised(network, seed), torch.zeros(1, 1, 32, 32), name=family)


def images(n: int, seed: int = 0, channels: int = 1, size: int = 32) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


@cache
def network(family: str, classes: str, seed: int = 0) -> FrozenNetwork:
    """The chain as a zoo network whose outputs are named by single letters."""
    spec = InputSpec(1, 32, 32, (0.5,), (0.5,))
    return FrozenNetwork(chain(family, len(classes), seed), tuple(classes), spec)


def clone(
    source: FrozenNetwork, classes: str, position: int = 0, share: float = 0.7, num_selected: int | None = None
) -> Clone:
    generator = torch.Generator().manual_seed(1)
    gates, selected = (torch.rand(num_gates(source.sites), generator=generator) < share).float(), None
    if num_selected is not None:
        selected = torch.randperm(source.num_features, generator=generator)[:num_selected].sort().values
    return Clone(source, tuple(classes), gates, position, selected)


def adapter(target: FrozenNetwork, clone: Clone) -> Adapter | None:
    if clone.position == 0:
        return None
    cut = source_position(target, clone.source, clone.position)
    return Adapter(target.chain.signal(clone.position), clone.source.chain.signal(cut))


def cloned(target: FrozenNetwork, *clones: Clone, head_cuts: Sequence[int] = ()) -> ClonedNetwork:
    classes = [*target.classes, *(name for c in clones for name in c.classes)]
    return ClonedNetwork(target, classes, clones, [adapter(target, c) for c in clones], head_cuts)


def as_if_tuned(found: ClonedNetwork, seed: int = 0) -> ClonedNetwork:
    """With something learnt in every number of its head."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


def build(family: str, num_classes: int) -> nn.Module:
    """A factory for zoo entries."""
    return copy.deepcopy(chain(family, num_classes).network)


def small_zoo(**changes: ZooEntry) -> Zoo:
    """A target for a-c, a source for c-e, and one network that knows f alone."""
    spec = InputSpec(1, 32, 32, (0.5,), (0.5,))
    networks = {"low": ("resnet", "abc"), "high": ("regnety", "cde"), "rare": ("vit", "fg")}
    entries = {
        name: ZooEntry(
            name,
            "cloning_stand_ins:build",
            spec,
            kwargs={"family": family, "num_classes": len(classes)},
            classes=tuple(classes),
        )
        for name, (family, classes) in networks.items()
    }
    return Zoo("small", {**entries, **changes}.values())


def small_data(class_names: str = "abcde", seed: int = 0) -> ImageDataModule:
    """Ten noisy images of a pattern per class: six train, two validation, two test."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.rand(len(class_names), 1, 32, 32, generator=generator)
    labels = torch.arange(len(class_names)).repeat(10)
    pixels = (patterns[labels] + 0.2 * torch.randn(len(labels), 1, 32, 32, generator=generator)).clamp(0, 1)
    order = torch.arange(len(labels))
    n = len(class_names)
    splits = {"train": order[: 6 * n], "val": order[6 * n : 8 * n], "test": order[8 * n :]}
    source = ImagesInMemory(pixels, labels)
    return ImageDataModule(
        name="patterns", source=source, splits=splits, class_names=tuple(class_names), seed=seed, batch_size=8
    )
