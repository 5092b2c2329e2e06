"""Random adapters scaled to what the next block knows from home."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from reassembly.matched_adapter import input_statistics, matched_adapter
from zoo.chain.signals import Signal, to_grid

SIGNALS = [
    Signal("NCHW", 6, (5, 7)),
    Signal("NHWC", 9, (2, 3)),
    Signal("NLC", 8, (4, 4), num_prefix_tokens=2),
    Signal("NC", 10, None),
]


@pytest.mark.parametrize("kind", ["linear", "paper"])
@pytest.mark.parametrize(("source", "target"), list(product(SIGNALS, SIGNALS)), ids=str)
def test_random_adapters_have_the_statistics_of_home(source, target, kind):
    generator = torch.Generator().manual_seed(0)
    inputs = 3 * torch.randn(source.shape(40), generator=generator) + 1
    home = 0.3 * torch.randn(target.shape(40), generator=generator) + 2
    statistics = input_statistics(home, target, kind)
    adapter = matched_adapter(source, target, inputs, statistics, kind, generator)
    with torch.no_grad():
        found = input_statistics(adapter(inputs), target, kind)
    torch.testing.assert_close(found.mean, statistics.mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.deviation, statistics.deviation, atol=1e-3, rtol=1e-3)
    assert torch.equal(found.prefix, statistics.prefix) or torch.allclose(found.prefix, statistics.prefix)


def test_a_dead_channel_comes_in_as_its_home_mean():
    source, target = Signal("NCHW", 3, (4, 4)), Signal("NCHW", 5, (4, 4))
    statistics = input_statistics(torch.randn(10, 5, 4, 4), target, "linear")
    adapter = matched_adapter(source, target, torch.zeros(10, 3, 4, 4), statistics, "linear", torch.Generator())
    with torch.no_grad():
        out = to_grid(adapter(torch.zeros(2, 3, 4, 4)), target)
    assert torch.equal(out, statistics.mean[None, :, None, None].expand(2, 5, 4, 4))
