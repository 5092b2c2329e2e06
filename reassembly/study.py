"""One pass of the probe images through every network: what similarity, partition and costs are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.chain import Chain
from zoo.chain.modes import eval_mode
from zoo.chain.signals import pool
from zoo.description import ChainDescription, describe, identity
from zoo.entries import ZooEntry
from zoo.loading import load_chain, load_network
from zoo.registry import Zoo
from zoo.storage.records import from_plain, to_plain
from zoo.storage.store import Entry, Store

MAX_PARAMS = 2**29
"""Parameters of the networks kept in memory (2 GiB in float32); the one in use is kept whatever its size."""


@dataclass(frozen=True)
class NetworkStudy:
    """A network as the search sees it.

    Attributes:
        key: content key of network and probe images; what depends on the features depends on it.
        description: nodes, signals, costs, digest.
        features: L - 1 tensors (n, d) float32: the pooled output of the stem and of every body node; empty once the
            similarity is known.
    """

    key: str
    description: ChainDescription
    features: tuple[Tensor, ...]


class Chains(Mapping[str, Chain]):
    """The chains of a zoo, loaded when first asked for; the networks not used for longest are dropped.

    What slicing found is kept, so that a network that comes back is loaded but not sliced again.

    Args:
        zoo: where they come from.
        max_params: what is kept, in parameters of all networks together.
    """

    def __init__(self, zoo: Zoo, max_params: int = MAX_PARAMS) -> None:
        self._zoo, self._max_params = zoo, max_params
        self._loaded: dict[str, Chain] = {}
        self._sliced: dict[str, Chain] = {}

    def __getitem__(self, name: str) -> Chain:
        chain = self._loaded.pop(name, None)
        if chain is None and name in self._sliced:
            chain = self._sliced[name].over(load_network(self._zoo[name]))
        elif chain is None:
            chain = load_chain(self._zoo[name])
            self._sliced[name] = chain.without_data()
        self._loaded[name] = chain
        while len(self._loaded) > 1 and sum(c.costs.num_params for c in self._loaded.values()) > self._max_params:
            del self._loaded[next(iter(self._loaded))]
        return chain

    def __contains__(self, name: object) -> bool:
        return name in self._zoo

    def __iter__(self) -> Iterator[str]:
        return iter(self._zoo)

    def __len__(self) -> int:
        return len(self._zoo)


def study_network(
    entry: ZooEntry, chains: Mapping[str, Chain], images: Callable[[], Tensor], data_key: str, store: Store
) -> NetworkStudy:
    """Runs the probe images through one network, or reads what an earlier run found.

    Args:
        entry: the network.
        chains: of the zoo; the network is asked for only if its study is not stored yet.
        images: gives the probe images as the network takes them, (n, C, H, W) float32.
        data_key: names the images.
        store: of stage results.
    """

    def compute() -> Entry:
        chain = chains[entry.name]
        features = {str(cut): tensor for cut, tensor in enumerate(node_features(chain, images()), start=1)}
        return Entry(features, to_plain(describe(chain)))

    inputs = {"network": identity(entry), "data": data_key}
    stored = store.fetch("features", inputs, compute)
    description = from_plain(ChainDescription, stored.values, f"features of {entry.name}")
    return NetworkStudy(
        key=store.key("features", inputs),
        description=description,
        features=tuple(stored.tensors[str(cut)] for cut in range(1, len(description))),
    )


@torch.no_grad()
def node_features(chain: Chain, images: Tensor, batch_size: int = 32) -> list[Tensor]:
    """Returns the pooled outputs of stem and body nodes: L - 1 tensors (n, d) float32, without prefix tokens."""
    found: list[list[Tensor]] = [[] for _ in range(len(chain) - 1)]
    with eval_mode(chain.network):
        nodes = [chain.block(index, index + 1) for index in range(len(chain) - 1)]
        for batch in images.split(batch_size):
            for index, node in enumerate(nodes):
                batch = node(batch)
                found[index].append(pool(batch, chain.signal(index + 1)).float())
    return [torch.cat(batches) for batches in found]


def feature_indices(studies: Sequence[NetworkStudy]) -> list[list[int]]:
    """Returns, per network, the rows that its features have among the features of all networks, stem first."""
    indices, start = [], 0
    for study in studies:
        num_features = len(study.description) - 1
        indices.append(list(range(start, start + num_features)))
        start += num_features
    return indices
