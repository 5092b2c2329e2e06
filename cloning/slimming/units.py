"""Which units of a network have to be cut together: read off one forward, without tables of architectures.

A *unit* is an output channel of a layer, a channel behind a gate, or an element of a parameter outside of layers. Two
are *tied* if one cannot be cut without the other: the input and output of a depthwise convolution, the two halves of a
gated linear unit, the layer that scales channels by what their averages say and the channels it scales, all that makes
one head of attention. Gates part units: what is in front of one and what is behind it are cut, or not, each for itself,
as the module at the gate can leave out channels and fill in zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cloning.gates import GateSite
from cloning.slimming.rules import by_channel, hand_on
from cloning.slimming.tags import NOTHING, Tags, Ties
from zoo.chain import Chain
from zoo.chain.modes import eval_mode, tensors

MAX_ELEMENTS = 200_000
"""Of a parameter outside of layers whose elements are followed one by one; larger ones stay as they are."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Layer:
    """A convolution or linear layer, and the units of its channels; ``NOTHING`` (0) where one has to stay.

    Attributes:
        node: Index of the chain's node it is in.
        groups: Of the convolution.
        inputs: (C_in,) units that it reads.
        gates: (C_in,) one more than the number of the gate that makes the input zero when closed, or 0.
        outputs: (C_out,) units that it makes.
        macs: Multiply-accumulate operations per image.
    """

    node: int
    groups: int
    inputs: Tensor
    gates: Tensor
    outputs: Tensor
    macs: int = 0

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is for itself."""
        return self.groups > 1 and self.groups == len(self.inputs) == len(self.outputs)


@dataclass
class SiteUnits:
    """The units (num_gates * group_size,) in front of the gates of a site and behind them; gates as in ``Layer``."""

    before: Tensor
    gates: Tensor
    after: Tensor


@dataclass
class NetworkUnits:
    """What one forward showed of a network.

    Attributes:
        layers: By qualified name, in the order of execution.
        sites: In the order of the network's sites; ``None`` where a site was not reached.
        parameters: First unit and shape of parameters and buffers outside of layers, by qualified name.
        nodes: Index of the node in which each of these parameters was first read.
        ties: Which units are tied, and which stay.
        cuts: By cut of the chain the units that cross it.
        masked: By site (its index) around which nothing can be cut, why; filled by ``slim``.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    sites: list[SiteUnits | None] = field(default_factory=list)
    parameters: dict[str, tuple[int, torch.Size]] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    ties: Ties = field(default_factory=Ties)
    cuts: list[Tensor] = field(default_factory=list)
    masked: dict[int, str] = field(default_factory=dict)


@torch.no_grad()
def find_units(chain: Chain, sites: Sequence[GateSite]) -> NetworkUnits:
    """Runs the chain once, node by node, on noise; nothing stays on its network."""
    parameter = next(chain.network.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(chain.signal(0).shape(1), generator=generator).to(parameter)
    observer = _Observer(chain, sites)
    with eval_mode(chain.network), observer.hooks():
        for node in range(len(chain)):
            observer.node = node
            with observer:
                x = chain.block(node, node + 1)(x)
            tags = observer(x)
            observer.found.cuts.append(torch.zeros(0) if tags is None else tags.unit.unique())
    observer.found.ties.keep(observer.found.cuts[-1].long())
    return observer.found


def gate_macs(units: NetworkUnits, sites: Sequence[GateSite]) -> Tensor:
    """What each gate decides about: (n,) float64, the MACs of the channels that go with its units.

    A channel's share of a layer counts for what makes it and for what reads it, whatever the other side keeps.
    """
    find, kept, costs = units.ties.find, units.ties.kept, {}
    for layer in units.layers.values():
        for side in (layer.inputs, layer.outputs):
            for unit in side[side > 0].tolist():
                costs[find(unit)] = costs.get(find(unit), 0.0) + layer.macs / len(side)
    found = []
    for site, own in zip(sites, units.sites, strict=True):
        macs = torch.zeros(site.num_gates, dtype=torch.float64)
        for tags in (own.before, own.after) if own is not None else ():
            for gate, group in enumerate(tags.view(site.num_gates, -1).tolist()):
                roots = {find(unit) for unit in group if unit > 0} - kept
                macs[gate] += sum(costs.get(root, 0.0) for root in roots)
        found.append(macs)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


class _Observer(TorchDispatchMode):
    """Tags every tensor while active; called with one it gives its tags."""

    def __init__(self, chain: Chain, sites: Sequence[GateSite]) -> None:
        super().__init__()
        self.network, self.sites = chain.network, sites
        self.found = NetworkUnits(sites=[None] * len(sites))
        self.node = 0
        self._tags: dict[int, Tags] = {}
        self._alive: list[Tensor] = []  # so that identities stay unique
        self._storages: dict[int, set[int]] = {}
        self._inside = 0
        self._names = {id(p): name for name, p in chain.network.named_parameters()}
        self._names |= {id(b): name for name, b in chain.network.named_buffers()}

    def __call__(self, tensor: Tensor) -> Tags | None:
        """The tags of a tensor; ``None`` if it has none."""
        name = self._names.get(id(tensor))
        if id(tensor) not in self._tags and name and tensor.is_floating_point() and tensor.numel() <= MAX_ELEMENTS:
            units = self.found.ties.new(tensor.numel()).view(tensor.shape)
            self.found.parameters[name] = (int(units.flatten()[0]) if tensor.numel() else 0, tensor.shape)
            self.found.nodes[name] = self.node
            self._set(tensor, Tags(units, torch.zeros_like(units)))
        return self._tags.get(id(tensor))

    def is_of_parameters(self, tensor: Tensor) -> bool:
        """Whether the tags of a tensor are those of a parameter."""
        tags = self(tensor)
        there = tags.unit[tags.unit > 0] if tags is not None else torch.zeros(0)
        first = int(there.flatten()[0]) if there.numel() else 0
        return any(start <= first < start + shape.numel() for start, shape in self.found.parameters.values())

    def _set(self, tensor: Tensor, tags: Tags | None) -> None:
        self._alive.append(tensor)
        self._storages.setdefault(tensor.untyped_storage()._cdata, set()).add(id(tensor))
        if tags is None:
            self._tags.pop(id(tensor), None)
        else:
            self._tags[id(tensor)] = tags

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        with _Paused(self):
            read = [self(tensor) for tensor in tensors((args, kwargs))]
            out = func(*args, **kwargs)
            name = func._overloadpacket.__name__
            tags = hand_on(self.found.ties, name, args, kwargs, out, self) if any(read) else None
            results = [out] if isinstance(out, Tensor) else list(tensors(out))
            given = tags if isinstance(tags, list) else [tags] * len(results)
            if tags is None:  # no rule: what it has read stays as wide as it is
                for one in read:
                    self.found.ties.keep(one.unit if one is not None else [])
            self._forget_aliases(func, args, results)
            for result, one in zip(results, given, strict=False):
                self._set(result, one)
        return out

    def _forget_aliases(self, func: Any, args: tuple, results: list[Tensor]) -> None:
        """After a write in place other views of the same memory are no longer what their tags say."""
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write or position >= len(args):
                continue
            mutated = args[position]
            for other in self._storages.get(mutated.untyped_storage()._cdata, set()) - {id(mutated)}:
                if other in self._tags and other not in set(map(id, results)):
                    self.found.ties.keep(self._tags.pop(other).unit)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """While inside, layers and sites of the network are watched."""
        handles = []
        for path, module in self.network.named_modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave(path)))
        for index, site in enumerate(self.sites):
            module = self.network.get_submodule(site.path)
            if site.side == "output":
                handles.append(module.register_forward_hook(lambda m, args, out, index=index: self._gate(index, out)))
            else:  # in front of the layer's own hook
                hook = module.register_forward_pre_hook(
                    lambda m, args, index=index: self._gate(index, args[0]), prepend=True
                )
                handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self._inside += 1

    def _leave(self, path: str) -> Any:
        def leave(module: nn.Module, args: tuple, output: Tensor) -> None:
            self._inside -= 1
            with _Paused(self):
                self._set(output, self._layer(path, module, args[0], output))

        return leave

    def _layer(self, path: str, module: nn.Module, x: Tensor, output: Tensor) -> Tags:
        """Notes what a layer reads; the tags of its output."""
        ties, axis = self.found.ties, -1 if isinstance(module, nn.Linear) else 1
        tags = self(x)
        none = torch.full((x.shape[axis],), NOTHING)
        units, gates = (none, none) if tags is None else by_channel(ties, tags, axis, len(none))
        layer = self.found.layers.get(path)
        if layer is None:
            made = ties.new(output.shape[axis])
            layer = self.found.layers[path] = Layer(self.node, getattr(module, "groups", 1), units, gates, made)
            layer.macs = module.weight[0].numel() * output.numel()
        else:  # it runs once more: both calls are cut alike
            ties.tie(layer.inputs, units)
            ties.keep(layer.inputs[units == NOTHING])
            ties.keep(units[layer.inputs == NOTHING])
            layer.gates = torch.where(layer.gates == gates, gates, 0)
        gate = torch.zeros(len(layer.outputs), dtype=torch.int64)
        if layer.is_depthwise:
            ties.tie(layer.inputs, layer.outputs)
            ties.keep(layer.outputs[layer.inputs == NOTHING])
            gate = layer.gates if module.bias is None else gate
        shape = [1] * output.ndim
        shape[axis] = -1
        return Tags(*(values.view(shape) for values in (layer.outputs, gate)))

    def _gate(self, index: int, tensor: Tensor) -> None:
        with _Paused(self):
            site = self.sites[index]
            number = sum(other.num_gates for other in self.sites[:index])
            tags = self(tensor)
            n = site.num_gates * site.group_size
            none = torch.full((n,), NOTHING)
            units, gates = (none, none) if tags is None else by_channel(self.found.ties, tags, site.axis, n)
            after = self.found.ties.new(n)
            self.found.sites[index] = SiteUnits(units, gates, after)
            own = torch.arange(number + 1, number + 1 + site.num_gates).repeat_interleave(site.group_size)
            shape = [1] * tensor.ndim
            shape[site.axis] = -1
            self._set(tensor, Tags(*(values.view(shape) for values in (after, own))))


class _Paused:
    """While inside, what the observer itself computes is not observed."""

    def __init__(self, observer: _Observer) -> None:
        self.observer = observer

    def __enter__(self) -> None:
        self.observer._inside += 1

    def __exit__(self, *_: Any) -> None:
        self.observer._inside -= 1
