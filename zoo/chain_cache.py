"""The chains of a zoo in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from zoo.chain import Chain
from zoo.loading import load_chain, load_network
from zoo.registry import Zoo

MAX_PARAMS = 2**29
"""Parameters of the networks kept in memory (2 GiB in float32); the one in use is kept whatever its size."""


class ChainCache(Mapping[str, Chain]):
    """The chains of a zoo, loaded when first asked for; the networks not used for longest are dropped.

    What slicing found is kept, so that a network that comes back is loaded but not sliced again.

    Args:
        zoo: Where they come from.
        max_params: What is kept, in parameters of all networks together.
        device: Where the networks are.
    """

    def __init__(self, zoo: Zoo, max_params: int = MAX_PARAMS, device: torch.device | str = "cpu") -> None:
        self._zoo, self._max_params, self._device = zoo, max_params, device
        self._loaded: dict[str, Chain] = {}
        self._sliced: dict[str, Chain] = {}

    def __getitem__(self, name: str) -> Chain:
        chain = self._loaded.pop(name, None)
        if chain is None and name in self._sliced:
            chain = self._sliced[name].over(load_network(self._zoo[name]))
        elif chain is None:
            chain = load_chain(self._zoo[name])
            self._sliced[name] = chain.without_data()
        chain.network.to(self._device)
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
