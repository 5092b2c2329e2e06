"""``torch.compile`` takes a block whole: what runs between its modules is no reason to leave the graph."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from zoo.chain import Chain

FAMILIES = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [4, 4, 6, 8]},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 12,
        "depths": [1, 1],
        "num_heads": [2, 4],
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_compile_without_graph_breaks(name: str) -> None:
    network = timm.create_model(name, in_chans=1, num_classes=2, **FAMILIES[name]).eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    chain = Chain.from_network(network, x[:1], name=name)
    block = copy.deepcopy(chain.block(0, len(chain) - 1))
    expected, names = block(x), list(block.state_dict())
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> object:
        graphs.append(graph)
        return graph.forward

    block.compile(backend=backend, fullgraph=True)
    assert torch.equal(block(x), expected)
    assert len(graphs) == 1
    assert list(block.state_dict()) == names
    torch.compiler.reset()
