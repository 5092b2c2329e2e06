"""A small search, shared by its tests."""

from __future__ import annotations

from pathlib import Path

from datamodules import Digits
from reassembly.pipeline import Search
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.registry import Zoo
from zoo.storage.store import Store

SETTINGS = SearchSettings(
    similarity=SimilaritySettings(num_probe_images=40),
    partition=PartitionSettings(num_blocks=2, num_starts=4, max_bound_steps=200),
    budget=Budget(max_params=250_000),
    proxy=ProxySettings(num_draws=1, num_images=40, also=("params",)),
)


def search(zoo: Zoo, data: Digits, root: Path, settings: SearchSettings = SETTINGS) -> Search:
    return Search(zoo, data, settings, store=Store(root), seed=0)
