"""Builders of the embedded zoo's networks that no plain `timm.create_model` call can express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn


def small_image(model: str, *, strides: Mapping[str, int], remove: Sequence[str] = (), **kwargs: Any) -> nn.Module:
    """A timm network whose stem keeps the grid of small images.

    Args:
        model: timm name.
        strides: New stride of convolutions, by their qualified names.
        remove: Qualified names of modules that become the identity: pooling, or the hidden layer of an efficient head
            (`conv_head` and its activation), after which a new classifier reads the pooled features.
        kwargs: Passed to `timm.create_model`.
    """
    network = timm.create_model(model, **kwargs)
    for name, stride in strides.items():
        network.get_submodule(name).stride = (stride, stride)
    for name in remove:
        network.set_submodule(name, nn.Identity())
    if "conv_head" in remove:
        network.head_hidden_size = network.num_features
        network.reset_classifier(network.num_classes)
    return network


def conv_stem_vit(*, in_chans: int, stem_channels: tuple[int, ...], img_size: int, **kwargs: Any) -> VisionTransformer:
    """A vision transformer behind a convolutional stem, which learns from thousands of images where patches do not.

    Args:
        in_chans: Channels of the images.
        stem_channels: Width of each stem convolution (kernel 3, stride 2); the last one is the tokens' width.
        img_size: Side of the square images in pixels; the token grid is `img_size / 2 ** len(stem_channels)`.
        kwargs: Passed to timm's `VisionTransformer`.

    Source: Xiao et al., Early Convolutions Help Transformers See Better, 2021.
    """
    depth = len(stem_channels)
    stem = ConvStem(in_chans=in_chans, depth=depth, channels=tuple(stem_channels), stride=(2,) * depth)
    embed_layer = partial(HybridEmbed, backbone=stem, proj=False)
    return VisionTransformer(
        img_size=img_size,
        patch_size=1,
        in_chans=in_chans,
        embed_dim=stem_channels[-1],
        embed_layer=embed_layer,
        **kwargs,
    )
