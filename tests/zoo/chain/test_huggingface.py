"""Networks of Hugging Face, tiny and with random weights: of what their backbones return, one thing is used."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn

from zoo import Chain, UserError

TOKENS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 2, 1]}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}

# kinds of the nodes, arguments of the configuration
NETWORKS = {
    "ResNet": ("sbbbbh", {**STAGES, "layer_type": "basic"}),
    "ConvNext": (
        "sblbblbh",
        {"hidden_sizes": [8, 12, 16], "depths": [1, 2, 1], "num_stages": 3, "drop_path_rate": 0.1},
    ),
    "Swin": ("sbbbbbh", {**WINDOWS, "drop_path_rate": 0.1}),
    "Dinov2": ("sbbbh", {**TOKENS, "mlp_ratio": 2}),
    "Beit": ("sbbbh", {**TOKENS, "intermediate_size": 32, "use_relative_position_bias": True, "drop_path_rate": 0.1}),
    "MobileNetV2": ("s" + 16 * "b" + "h", {"depth_multiplier": 0.25, "image_size": 32}),
}


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).logits


def build(name: str) -> nn.Module:
    configuration = getattr(transformers, f"{name}Config")(**NETWORKS[name][1], num_labels=3)
    return getattr(transformers, f"{name}ForImageClassification")(configuration)


def run(pieces: list[Callable], x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    for piece in pieces:
        x = piece(x)
    return x


@pytest.mark.parametrize("name", NETWORKS)
def test_wrapped_as_the_message_says_it_is_a_chain_in_both_modes(name: str) -> None:
    torch.manual_seed(0)
    network = Logits(build(name)).eval()
    chain = Chain.from_network(network, torch.zeros(1, 3, 32, 32), name=name)
    assert "".join(node.kind[0] for node in chain.nodes) == NETWORKS[name][0]
    assert chain.costs.num_params == sum(parameter.numel() for parameter in network.parameters())
    pieces, x = [chain.block(i, i + 1) for i in range(len(chain))], torch.randn(4, 3, 32, 32)
    assert torch.equal(run(pieces, x), network(x))
    twin, copies = copy.deepcopy(network).train(), [copy.deepcopy(piece).train() for piece in pieces]
    assert torch.equal(run(copies, x), run([twin], x))
    statistics = twin.state_dict()
    assert all(torch.equal(value, statistics[key]) for piece in copies for key, value in piece.state_dict().items())


def test_unwrapped_it_is_told_how_to_wrap_it() -> None:
    with pytest.raises(
        UserError, match=r"ImageClassifierOutput\w* of logits; wrap it .* self.network\(x\)\['logits'\]$"
    ):
        Chain.from_network(build("ResNet"), torch.zeros(1, 3, 32, 32))
