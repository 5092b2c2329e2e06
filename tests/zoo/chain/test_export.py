"""Pieces of a network export with a free batch: nothing of the glue, nor of an adapter, fixes how many images come."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from zoo import Adapter, Chain, Signal


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(x).relu()


class Tokens(nn.Module):
    """Asks for the length and the shape of the batch, before and behind its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(Residual() for _ in range(3))
        self.class_token, self.head = nn.Parameter(torch.ones(1, 1, 8)), nn.Linear(16, 5)

    def forward(self, x):
        batch_size = x.shape[0]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1).reshape(batch_size, 16))


@pytest.mark.parametrize("is_stitched", [False, True])
def test_the_batch_of_an_exported_composition_is_free(is_stitched: bool) -> None:
    torch.manual_seed(0)
    chain = Chain.from_network(Tokens().eval(), torch.zeros(1, 3, 16, 8))
    start = [nn.Conv2d(3, 4, 3), Adapter(Signal("NCHW", 4, (14, 6)), chain.signal(2))]
    pieces = [*start, chain.block(2, 4)] if is_stitched else [chain.block(i, i + 1) for i in range(4)]
    network = nn.Sequential(*pieces, *([chain.neck()] if is_stitched else [chain.block(4, 5)])).eval()
    x = torch.randn(3, 3, 16, 8)
    exported = export(network, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=64)},)).module()
    for n in (1, 2, 3):
        torch.testing.assert_close(exported(x[:n]), network(x[:n]))
