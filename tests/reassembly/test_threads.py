"""With another number of threads sums are added in another order, and nothing else changes."""

from __future__ import annotations

import timm
import torch

from reassembly.features import node_features
from reassembly.similarity import similarity_matrix
from zoo.chain import Chain
from zoo.stitching.adapters import closed_form_adapter
from zoo.timing import num_threads


def test_two_threads_find_what_one_finds_up_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet18", in_chans=1, layers=[1, 1, 1, 1], channels=[16, 24, 32, 48]).eval()
    chain = Chain.from_network(network, torch.zeros(1, 1, 32, 32))
    images = torch.randn(64, 1, 32, 32, generator=generator)
    found = []
    for count in (1, 2):
        with num_threads(count), torch.no_grad():
            features = node_features(chain, images)
            source, target = chain.block(0, 2)(images), chain.block(0, 4)(images)
            adapter = closed_form_adapter(chain.signal(2), chain.signal(4), source, target).adapter
            found.append((*features, similarity_matrix(features, batch_size=32), adapter(source)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
