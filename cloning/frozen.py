"""A network of the zoo as cloning uses it: run in part and with gates, never changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.gates import GateSite, gated, pack_gates
from cloning.sites import find_sites
from cloning.slimming import NetworkUnits, Slim, find_units, gate_macs, slim
from zoo.chain import Chain
from zoo.chain.modes import eval_mode
from zoo.chain_cache import MAX_PARAMS, ChainCache
from zoo.digests import digest
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.registry import Zoo


class FrozenNetwork:
    """A chain with named outputs whose parameters and buffers stay what they are.

    It is no ``nn.Module`` on purpose: a network that holds one cannot reach the zoo's weights by ``train()``, ``to()``,
    ``state_dict()`` or an optimiser. On another device it works with a copy.

    Args:
        chain: Of a network whose output is that of a linear layer, the classifier.
        classes: Names of the outputs.
        input: What the network takes.

    Attributes:
        classifier: Qualified name of the last linear layer.
        weight: (C, d) of the classifier.
        bias: (C,) of the classifier, zeros if it has none.

    Raises:
        UserError: The head does not end in a linear layer with one output per class.
    """

    def __init__(self, chain: Chain, classes: Sequence[str], input: InputSpec) -> None:
        self.chain, self.classes, self.input = chain, tuple(classes), input
        self.classifier = _find_classifier(chain)
        layer = chain.network.get_submodule(self.classifier)
        self.weight = layer.weight.detach()
        self.bias = layer.bias.detach() if layer.bias is not None else torch.zeros_like(self.weight[:, 0])
        if len(self.classes) != len(self.weight):
            raise UserError(
                f"{chain.name!r} has {len(self.weight)} outputs and {len(self.classes)} class names; "
                "list its `classes` in the zoo's file"
            )
        self.origin: FrozenNetwork | None = None  # of a copy: what it is a copy of
        self._copies: dict[torch.device, FrozenNetwork] = {}
        self._slims: WeakValueDictionary[tuple, Slim] = WeakValueDictionary()

    def __deepcopy__(self, memo: dict) -> FrozenNetwork:
        return self

    @property
    def name(self) -> str:
        """Its name in the zoo."""
        return self.chain.name

    @property
    def num_features(self) -> int:
        """Width d of what the classifier reads."""
        return self.weight.shape[1]

    @cached_property
    def sites(self) -> tuple[GateSite, ...]:
        """Where it can be gated."""
        return find_sites(self.chain)

    @cached_property
    def units(self) -> NetworkUnits:
        """Which of its units can only be cut together."""
        return find_units(self.chain, self.sites)

    @cached_property
    def gate_macs(self) -> Tensor:
        """The MACs that each gate decides about, (n,) float64."""
        return gate_macs(self.units, self.sites)

    def slim(self, gates: Tensor, start: int, device: torch.device | str = "cpu") -> Slim:
        """The network without its closed units, from a cut to what the classifier reads; shared by all who ask alike.

        Args:
            gates: (n,) of 0 and 1.
            start: A cut of the chain.
            device: Where it is to run.
        """
        if self.origin is not None:
            return self.origin.slim(gates, start, device)
        device = torch.device(device)
        key = (pack_gates(gates), start, device)
        found = self._slims.get(key)
        if found is None:
            own = next(self.chain.network.parameters()).device
            if device == own:
                with torch.autocast(own.type, enabled=False):  # it is compared with the masked network
                    found = slim(self.chain, self.sites, self.units, gates, start, self.classifier)
            else:
                found = self.slim(gates, start, own)
                found = Slim(copy.deepcopy(found.network).to(device), found.costs, found.masked)
            self._slims[key] = found
        return found

    def digest(self) -> str:
        """Of all parameters and buffers of the zoo's network as they are now."""
        return digest((self.origin or self).chain.network)

    @property
    def black(self) -> Tensor:
        """(channels,) value of a black pixel after the preprocessing."""
        return -torch.tensor(self.input.mean) / torch.tensor(self.input.std)

    def features_at(self, cut: int, x: Tensor, *, start: int = 0, gates: Tensor | None = None) -> Tensor:
        """The tensor at ``cut`` for the tensor ``x`` at ``start``; gradients reach ``x``, not the weights."""
        if cut == start:
            return x
        network = self.on(x.device)
        with network._untouched(gates):
            return network.chain.block(start, cut)(x)

    def features(self, x: Tensor, *, start: int = 0, gates: Tensor | None = None) -> Tensor:
        """What the classifier reads, (N, d), for the tensor ``x`` at the cut ``start``."""
        network = self.on(x.device)
        seen: list[Tensor] = []
        layer = network.chain.network.get_submodule(self.classifier)
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            with network._untouched(gates):
                network.chain.block(start, len(self.chain))(x)
        finally:
            handle.remove()
        return seen[-1]

    def classify(self, features: Tensor) -> Tensor:
        """The classifier's outputs (N, C) for what it reads (N, d), on their device."""
        return F.linear(features, self.weight.to(features), self.bias.to(features))

    def logits(self, x: Tensor, *, gates: Tensor | None = None) -> Tensor:
        """The network's own outputs (N, C) on images."""
        return self.features_at(len(self.chain), x, gates=gates)

    def on(self, device: torch.device) -> FrozenNetwork:
        """Itself where its weights are, else a copy on the device, made once."""
        parameter = next(self.chain.network.parameters())
        if parameter.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = self._with_network(copy.deepcopy(self.chain.network).to(device))
        return self._copies[device]

    def thawed(self) -> ThawedNetwork:
        """A copy whose weights may be trained."""
        network = copy.deepcopy(self.chain.network)
        network.set_submodule(self.classifier, nn.Identity())
        network.requires_grad_(True)
        return self._with_network(network, ThawedNetwork)

    def _with_network(self, network: nn.Module, kind: type[FrozenNetwork] | None = None) -> FrozenNetwork:
        twin = copy.copy(self)
        twin.__class__ = kind or type(self)
        twin.chain, twin._copies = copy.copy(self.chain), {}
        twin.chain.network, twin.origin = network, self.origin or self
        return twin

    @contextmanager
    def _untouched(self, gates: Tensor | None) -> Iterator[None]:
        """Evaluation mode, no gradient for the weights, and the gates, all only inside."""
        network = self.chain.network
        asked = [parameter for parameter in network.parameters() if parameter.requires_grad]
        with ExitStack() as stack:
            stack.enter_context(eval_mode(network))
            if gates is not None:
                stack.enter_context(gated(network, self.sites, gates))
            network.requires_grad_(False)
            try:
                yield
            finally:
                for parameter in asked:
                    parameter.requires_grad_(True)


class ThawedNetwork(FrozenNetwork):
    """A copy that is trained: its modes and gradients are those of whoever holds ``chain.network``."""

    def __deepcopy__(self, memo: dict) -> ThawedNetwork:
        return self._with_network(copy.deepcopy(self.chain.network, memo))

    def on(self, device: torch.device) -> FrozenNetwork:
        return self

    @contextmanager
    def _untouched(self, gates: Tensor | None) -> Iterator[None]:
        with ExitStack() as stack:
            if gates is not None:
                stack.enter_context(gated(self.chain.network, self.sites, gates))
            yield


class FrozenNetworks:
    """The networks of a zoo by name, in bounded memory; one that is in use anywhere stays the same object.

    Args:
        zoo: Where they come from.
        max_params: What is kept of those not in use, as in ``ChainCache``.
    """

    def __init__(self, zoo: Zoo, max_params: int = MAX_PARAMS) -> None:
        self.zoo, self._chains = zoo, ChainCache(zoo, max_params)
        self._in_use: WeakValueDictionary[str, FrozenNetwork] = WeakValueDictionary()

    def __call__(self, name: str) -> FrozenNetwork:
        """The network of that name; refusals as in ``zoo.loading.load_chain``, or the zoo has none."""
        entry = self.zoo.entry(name)
        network = self._in_use.get(name)
        if network is None:
            network = self._in_use[name] = FrozenNetwork(self._chains[name], entry.classes, entry.input)
        return network


@torch.no_grad()
def _find_classifier(chain: Chain) -> str:
    """The linear layer whose output is the network's, found by running the head once on zeros."""
    head = chain.block(len(chain) - 1, len(chain))
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, args, output, path=path: outputs.append((path, output)))
        for path, module in chain.network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    parameter = next(chain.network.parameters())
    try:
        with eval_mode(chain.network):
            x = torch.ones(chain.signal(len(chain) - 1).shape(1), dtype=parameter.dtype, device=parameter.device)
            result = head(x)
    finally:
        for handle in handles:
            handle.remove()
    if not outputs or not torch.equal(outputs[-1][1], result):
        raise UserError(
            f"the head of {chain.name!r} does not end in one linear layer, whose rows cloning takes over; "
            "leave it out of the zoo, or fix other networks with task.target and task.sources"
        )
    return outputs[-1][0]
