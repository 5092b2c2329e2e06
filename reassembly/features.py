"""One pass of the probe images through every network: what similarity, partition and costs are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.chain import Chain
from zoo.chain.batches import Rows, Taps, require_finite, run_in_batches
from zoo.chain.signals import pool
from zoo.description import ChainDescription, describe, identity
from zoo.entries import ZooEntry
from zoo.errors import require_each
from zoo.progress import progress
from zoo.storage.records import from_plain, to_plain
from zoo.storage.store import StageResult, Store


@dataclass(frozen=True)
class NetworkFeatures:
    """A network as the search sees it.

    Attributes:
        key: Content key of network and probe images; what depends on the features depends on it.
        description: Nodes, signals, costs, digest.
        features: L - 1 tensors (n, d) float32: the pooled output of the stem and of every body node; empty once the
            similarity is known.
    """

    key: str
    description: ChainDescription
    features: tuple[Tensor, ...]


def extract_features(
    entry: ZooEntry,
    chains: Mapping[str, Chain],
    images: Callable[[], Rows],
    data_key: str,
    store: Store,
    precision: torch.dtype | None = None,
) -> NetworkFeatures:
    """Runs the probe images through one network, or reads what an earlier search stored.

    Args:
        entry: The network.
        chains: Of the zoo; the network is asked for only if its features are not stored yet.
        images: Gives the probe images as the network takes them, (n, C, H, W) float32.
        data_key: Names the images.
        store: Of stage results.
        precision: Of the passes, see ``run_in_batches``.
    """

    def compute() -> StageResult:
        chain = chains[entry.name]
        features = node_features(chain, images(), precision=precision)
        tensors = {str(cut): tensor.cpu() for cut, tensor in enumerate(features, start=1)}
        return StageResult(tensors, to_plain(describe(chain)))

    inputs = feature_inputs(entry, data_key)
    stored = store.fetch("features", inputs, compute)
    description = from_plain(ChainDescription, stored.values, f"features of {entry.name}")
    return NetworkFeatures(
        key=store.key("features", inputs),
        description=replace(description, name=entry.name),  # the same network may have had another name then
        features=tuple(stored.tensors[str(cut)] for cut in range(1, len(description))),
    )


def require_chains(chains: Mapping[str, Chain], names: Sequence[str], min_blocks: int) -> None:
    """Loads networks, so that all that cannot be used are told together, and before an image runs.

    Raises:
        UserError: Weights that do not fit, a network that is no chain, or one too short for so many blocks.
    """
    with progress("new networks", len(names)) as advance:

        def require(name: str) -> None:
            advance()
            chains[name].require_length(min_blocks)

        require_each(names, require, "networks cannot be used")


def feature_inputs(entry: ZooEntry, data_key: str) -> dict[str, Any]:
    """What names the features of a network in a store."""
    return {"network": identity(entry), "data": data_key}


def node_features(
    chain: Chain, images: Rows, batch_size: int = 32, precision: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """The pooled outputs of stem and body nodes: L - 1 tensors (n, d) float32, without prefix tokens.

    Raises:
        UserError: Features that are not finite, with the names of network and node.
    """

    def reader(cut: int) -> Callable[[Tensor], Tensor]:
        return lambda x: pool(x.float(), chain.signal(cut))

    cuts = range(1, len(chain))
    taps = Taps([chain.block(cut - 1, cut) for cut in cuts], map(reader, cuts))
    features = run_in_batches(taps, images, batch_size=batch_size, precision=precision)
    return tuple(require_finite(tensor, chain, cut) for cut, tensor in zip(cuts, features, strict=True))


def feature_indices(networks: Sequence[NetworkFeatures]) -> list[list[int]]:
    """Per network, the rows that its features have among the features of all networks, stem first."""
    indices, start = [], 0
    for network in networks:
        num_features = len(network.description) - 1
        indices.append(list(range(start, start + num_features)))
        start += num_features
    return indices
