"""Slicing published architectures: blocks in a row are the network, in both modes and at other sizes.

Random weights; small inputs, and fewer or narrower blocks where the architecture has an argument for it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn

from zoo import Chain, UserError
from zoo.chain.costs import count

DROP = {"drop_rate": 0.1, "drop_path_rate": 0.2}
SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 3)}

# architecture: size of the image, arguments, number of nodes between stem and head, another size it accepts
ARCHITECTURES = {
    "timm:resnet18": (64, DROP, 8, 96),
    "timm:resnetv2_50": (64, DROP, 16, 96),
    "timm:regnety_002": (64, DROP, 13, 96),
    "timm:mobilenetv3_small_050": (64, DROP, 12, 96),
    "timm:tf_efficientnet_lite0": (64, DROP, 16, 96),
    "timm:convnext_atto": (64, DROP, 15, 96),
    "timm:edgenext_xx_small": (64, DROP, 15, 96),
    "timm:poolformer_s12": (64, DROP, 15, 96),
    "timm:fastvit_t8": (64, DROP, 19, 96),
    "timm:dla34": (64, {}, 4, 96),
    "timm:vit_tiny_patch16_224": (64, {"img_size": 64, "depth": 4, "dynamic_img_size": True, **DROP}, 4, 96),
    "timm:deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 4, **DROP}, 4, None),
    "timm:vit_small_patch14_reg4_dinov2": (56, {"img_size": 56, "depth": 3, **DROP}, 3, None),
    "timm:eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 3, "dynamic_img_size": True, **DROP}, 3, 84),
    "timm:beit_base_patch16_224": (64, {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3, **DROP}, 3, None),
    "timm:cait_xxs24_224": (64, {"img_size": 64, "depth": 4, **DROP}, 4, None),
    "timm:xcit_nano_12_p16_224": (64, {"depth": 4, **DROP}, 6, 96),
    "timm:levit_128s": (224, {"drop_path_rate": 0.2}, 11, None),
    "timm:swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 2, **SWIN, **DROP}, 8, None),
    "timm:swinv2_tiny_window8_256": (64, {"img_size": 64, "window_size": 2, **SWIN, **DROP}, 8, None),
    "timm:mixer_s32_224": (64, {"img_size": 64, **DROP}, 8, None),
    "timm:resmlp_12_224": (64, {"img_size": 64, **DROP}, 12, None),
    "timm:maxvit_rmlp_pico_rw_256": (64, {"img_size": 64, "depths": (1, 1, 1, 1), **DROP}, 12, None),
    "timm:coatnet_pico_rw_224": (64, {"img_size": 64, **DROP}, 12, None),
    "timm:caformer_s18": (64, DROP, 21, 96),
    "timm:mobilevit_xxs": (64, DROP, 10, 96),
    "torchvision:mobilenet_v2": (64, {"dropout": 0.1}, 17, 96),
    "torchvision:shufflenet_v2_x0_5": (64, {}, 16, 96),
    "torchvision:squeezenet1_1": (64, {"dropout": 0.1}, 8, 96),
    "torchvision:densenet121": (64, {"drop_rate": 0.1}, 7, 96),
    "torchvision:googlenet": (64, {"aux_logits": False, "init_weights": False}, 9, 96),
    "torchvision:swin_t": (64, {"dropout": 0.1}, 15, 96),
}


@dataclass
class Sliced:
    network: nn.Module
    chain: Chain
    images: torch.Tensor
    body: int
    other_size: int | None

    def pieces(self, *borders: int) -> list[nn.Module]:
        borders = sorted({0, *borders, len(self.chain)})
        return [self.chain.block(i, j) for i, j in pairwise(borders)]


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda name: name.replace(":", "-"))
def sliced(request: pytest.FixtureRequest) -> Sliced:
    size, kwargs, body, other_size = ARCHITECTURES[request.param]
    library, _, name = request.param.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        network = timm.create_model(name, num_classes=10, **kwargs)
    else:
        network = torchvision.models.get_model(name, weights=None, num_classes=10, **kwargs)
    chain = Chain.from_network(network, torch.zeros(1, 3, size, size), name=name)
    return Sliced(network, chain, torch.randn(3, 3, size, size), body, other_size)


def run(pieces: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for piece in pieces:
        x = piece(x)
    return x


def test_slicing_leaves_the_modes_alone_and_finds_the_blocks(sliced: Sliced) -> None:
    assert all(module.training for module in sliced.network.modules())
    kinds = [node.kind for node in sliced.chain.nodes]
    assert kinds[0] == "stem"
    assert kinds[-1] == "head"
    assert set(kinds[1:-1]) <= {"block", "link"}
    assert len(kinds) - 2 == sliced.body


def test_blocks_own_the_networks_parameters_between_them(sliced: Sliced) -> None:
    pieces = sliced.pieces(*range(len(sliced.chain)))
    named = {name: id(parameter) for name, parameter in sliced.network.named_parameters()}
    found = [(name, id(parameter)) for piece in pieces for name, parameter in piece.named_parameters()]
    assert len(found) == len(named)
    assert dict(found) == named
    keys = [key for piece in pieces for key in piece.state_dict()]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(sliced.network.state_dict())


def test_blocks_in_a_row_equal_the_network(sliced: Sliced) -> None:
    network = sliced.network.eval()
    pieces = sliced.pieces(1, len(sliced.chain) // 2, len(sliced.chain) - 1)
    with torch.no_grad():
        assert torch.equal(run(pieces, sliced.images), network(sliced.images))


def test_every_cut_carries_its_signal_and_no_block_writes_into_its_input(sliced: Sliced) -> None:
    sliced.network.eval()
    x = sliced.images
    with torch.no_grad():
        for index in range(len(sliced.chain)):
            assert tuple(x.shape) == sliced.chain.signal(index).shape(len(x))
            before = x.clone()
            y = sliced.chain.block(index, index + 1)(x)
            assert torch.equal(x, before)
            x = y
    assert tuple(x.shape) == sliced.chain.signal(len(sliced.chain)).shape(len(x))


def test_copies_train_like_the_network(sliced: Sliced) -> None:
    """Copied, loaded from a state dict, in training mode: the same outputs, gradients and batch statistics."""
    network = copy.deepcopy(sliced.network).train()
    pieces = sliced.pieces(2, len(sliced.chain) // 2)
    copies = [copy.deepcopy(piece).train() for piece in pieces]
    for twin, piece in zip(copies, pieces, strict=True):
        twin.load_state_dict(piece.state_dict())
    outputs = []
    for model in (network, lambda x: run(copies, x)):
        torch.manual_seed(7)
        output = model(sliced.images)
        output.square().sum().backward()
        outputs.append(output)
    assert torch.equal(*outputs)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for twin in copies for key, value in twin.state_dict().items())
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for twin in copies:
        for name, parameter in twin.named_parameters():
            assert (parameter.grad is None) == (gradients[name] is None), name
            assert parameter.grad is None or torch.equal(parameter.grad, gradients[name]), name


def test_another_size(sliced: Sliced) -> None:
    network = sliced.network.eval()
    x = torch.randn(1, 3, sliced.other_size or 160, sliced.other_size or 160)
    pieces = sliced.pieces(1, len(sliced.chain) // 2, len(sliced.chain) - 1)
    with torch.no_grad():
        if sliced.other_size is None:
            with pytest.raises((RuntimeError, AssertionError)):
                network(x)
        else:
            assert torch.equal(run(pieces, x), network(x))


def test_costs_add_up_to_the_whole_network(sliced: Sliced) -> None:
    chain, images = sliced.chain, sliced.images[:1]
    whole = count(sliced.network, images)
    assert chain.costs == whole
    assert chain.block_costs(0, 2) + chain.block_costs(2, len(chain)) == whole
    sliced.network.eval()
    with torch.no_grad():
        signal = chain.signal(2)
        assert chain.block_costs(2, 4) == count(chain.block(2, 4), torch.zeros(signal.shape(1)))


def test_neck_gives_one_vector_for_each_image(sliced: Sliced) -> None:
    sliced.network.eval()
    last = len(sliced.chain) - 1
    neck = sliced.chain.neck()
    with torch.no_grad():
        features = neck(sliced.chain.block(0, last)(sliced.images))
    assert features.shape == (len(sliced.images), sliced.chain.neck_dim)
    assert features.std(0).max() > 0
    assert set(neck.state_dict()) <= set(sliced.chain.block(last, last + 1).state_dict())


def test_what_is_no_chain_is_refused_by_name() -> None:
    network = timm.create_model("crossvit_tiny_240", depth=[[1, 1, 0]])
    with pytest.raises(UserError, match=r"crossvit_tiny_240 is no chain: .*; list modules .* nodes=\[.*\]"):
        Chain.from_network(network, torch.zeros(1, 3, 240, 240), name="crossvit_tiny_240")


def test_too_short_a_chain_is_refused_by_name(sliced: Sliced) -> None:
    sliced.chain.require_length(sliced.body)
    with pytest.raises(UserError, match=rf"'{sliced.chain.name}' has {sliced.body} nodes .* {sliced.body + 1} blocks"):
        sliced.chain.require_length(sliced.body + 1)


def test_a_network_can_be_sliced_in_inference_mode() -> None:
    with torch.inference_mode():
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2).eval()
        chain, x = Chain.from_network(network, torch.zeros(1, 3, 32, 32)), torch.ones(2, 3, 32, 32)
        assert torch.equal(chain.block(0, len(chain))(x), network(x))
        assert chain.neck()(chain.block(0, len(chain) - 1)(x)).shape == (2, chain.neck_dim)
