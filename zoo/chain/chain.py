"""Any network as a chain of nodes with exactly one tensor between neighbours."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from zoo.chain.classify import Anatomy, classify
from zoo.chain.costs import Costs, MacCounter, num_params
from zoo.chain.layouts import propagate, propagate_resized
from zoo.chain.merge import Untraceable
from zoo.chain.modes import eval_mode, fresh_caches, meta_copy, meta_pass
from zoo.chain.neck import neck_program
from zoo.chain.nodes import choose_cuts
from zoo.chain.observe import Observation, observe
from zoo.chain.origins import Origin, parameter_origins
from zoo.chain.program import Block, Program, Step
from zoo.chain.refusals import ADVICE, failed_forward, no_tensor, require_plain, wrong_precision
from zoo.chain.signals import Signal
from zoo.chain.slices import Slicer
from zoo.chain.trace import GuardError, trace
from zoo.errors import FOREIGN_FAULTS, UserError, reason


@dataclass(frozen=True)
class Node:
    """The smallest piece of a chain: a residual block, a transformer block, a patch merging.

    Attributes:
        index: Its place in the chain.
        name: Qualified names of the modules in it.
        kind: ``stem`` (all before the first block), ``block``, ``link`` (layers between blocks that are none
            themselves) or ``head`` (all after the last block).
        num_params: Number of parameters.
        macs: Multiply-accumulate operations per image at the native resolution.
        input: Signal at the cut before it.
        output: Signal at the cut behind it.
    """

    index: int
    name: str
    kind: Literal["stem", "block", "link", "head"]
    num_params: int
    macs: int
    input: Signal
    output: Signal

    @property
    def costs(self) -> Costs:
        """Parameters and multiply-accumulate operations."""
        return Costs(self.num_params, self.macs)


class Nodes:
    """Nodes in series, with or without the network they are of."""

    name: str
    nodes: tuple[Node, ...]

    def __len__(self) -> int:
        return len(self.nodes)

    def signal(self, cut: int) -> Signal:
        """What runs through a cut: 0 is the network's input, i the input of node i, the number of nodes its output."""
        return self.nodes[cut].input if cut < len(self) else self.nodes[-1].output

    def block_costs(self, start: int, stop: int) -> Costs:
        """Of nodes ``start`` up to ``stop``, at their native resolution."""
        return sum((node.costs for node in self.nodes[start:stop]), Costs())

    def require_length(self, num_blocks: int) -> None:
        """Refuses (``UserError``) a chain with fewer nodes between stem and head than blocks."""
        body = len(self) - 2
        if body < num_blocks:
            fewer = f"type partition.num_blocks={body}{' or less' if body > 1 else ''}, or " if body else ""
            raise UserError(
                f"network {self.name!r} has {body} node{'' if body == 1 else 's'} between stem and head, too few for "
                f"{num_blocks} blocks: {fewer}leave it out of the zoo (~zoo.networks.{self.name})"
            )


class Chain(Nodes):
    """A network seen as nodes in series; made by `from_network`.

    Attributes:
        name: Of the network, for messages.
        network: The network itself, unchanged; blocks share its parameters.
        nodes: Node 0 is the stem, the last one the head.
    """

    def __init__(
        self, name: str, network: nn.Module, slicer: Slicer, cuts: Sequence[str], kinds: Sequence[str]
    ) -> None:
        self.name = name
        self.network = network
        self._slicer = slicer
        self._shadow = slicer.network
        self._cuts = tuple(cuts)
        self._unused = _unused_parameters(slicer)
        self._writes_input = [False] * len(kinds)
        self.nodes = tuple(self._node(index, kind) for index, kind in enumerate(kinds))

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        example_input: torch.Tensor,
        *,
        name: str | None = None,
        nodes: Sequence[str] | None = None,
    ) -> Chain:
        """Slice a network, and check that its blocks in a row give exactly what it gives.

        No tables of architectures are used. The network, its modes, its data and its hooks stay as they are.

        Args:
            network: Maps one tensor to one tensor; other arguments of its forward keep their defaults. On the meta
                device there is nothing to compute and only the check is left out.
            example_input: A batch in the network's native resolution; only its shape matters.
            name: What messages call the network; its class by default.
            nodes: Qualified names of modules in series, each of which starts a node, where the choice made by
                itself is not wanted; what follows the last of them is the head.

        Raises:
            UserError: the network is no chain, or cannot be followed; with its name, the reason and what to do.
        """
        name = name or type(network).__name__
        require_plain(network, example_input, name)
        try:
            with torch.inference_mode(False):  # whatever the caller is in
                with fresh_caches():
                    chain = cls._sliced(network, example_input, name, nodes)
                    chain._require_any_batch_size()
                chain._verify(example_input)
        except GuardError as error:
            raise UserError(
                f"{name} cannot be sliced: its forward goes another way for another number of images (a condition on "
                f"the size of the batch?); {ADVICE}"
            ) from error
        except UserError:
            raise
        except FOREIGN_FAULTS as error:
            told = UserError(f"{name} cannot be sliced: {reason(error)}; {ADVICE}")
            raise wrong_precision(network, example_input, name) or told from error
        return chain

    @classmethod
    def _sliced(cls, network: nn.Module, example_input: torch.Tensor, name: str, nodes: Sequence[str] | None) -> Chain:
        shadow = meta_copy(network).eval()
        x = torch.empty((2, *example_input.shape[1:]), dtype=example_input.dtype, device="meta")
        anatomy = _by_hand(network, nodes, name) if nodes is not None else _anatomy(shadow, x, name)
        inside = {path.rsplit(".", depth)[0] for path in anatomy.atomic for depth in range(1, path.count(".") + 1)}
        try:
            program = trace(shadow, lambda path, _: path not in inside, x)
        except Untraceable as error:
            raise UserError(f"{name} cannot be sliced: {error}; {ADVICE}") from error
        native = propagate(program, shadow, tuple(x.shape))
        slicer = Slicer(program, shadow, native, propagate_resized(program, shadow, native), _source(example_input))
        cuts, kinds = choose_cuts(slicer, anatomy, name, nodes)
        return cls(name, network, slicer, cuts, kinds)

    def __repr__(self) -> str:
        return f"Chain({self.name}, {len(self)} nodes, {self.costs.num_params} parameters, {self.costs.macs} MACs)"

    def block(self, start: int, stop: int) -> Block:
        """The module of nodes ``start`` up to, not including, ``stop``.

        It shares the network's parameters, under their original qualified names, and no others; deepcopy it before
        changing it.
        """
        return self._block(self.network, start, stop)

    def _block(self, network: nn.Module, start: int, stop: int) -> Block:
        if not 0 <= start < stop <= len(self._cuts) - 1:
            raise UserError(f"{self.name} has nodes 0 to {len(self._cuts) - 2}: block({start}, {stop}) is none of it")
        program = self._slicer.slice(self._cuts[start], self._cuts[stop])
        if stop == len(self._cuts) - 1:
            program = Program((*program.steps, *self._unused), program.input, program.output)
        return Block(network, program, clone_input=self._writes_input[start])

    def over(self, network: nn.Module) -> Chain:
        """The same chain over another network of the same architecture, which is not sliced again.

        Args:
            network: As the builder of the chain's own network gives it, its weights loaded; checked no further.
        """
        chain = copy.copy(self)
        chain.network = network
        return chain

    def without_data(self) -> Chain:
        """The same chain over a network on the meta device: signals, costs and programs, and no weights."""
        return self.over(self._shadow)

    def neck(self) -> Block:
        """The module from the last cut (the head's input) to the (N, d) features that the classifier reads.

        Exactly the original final norm and pooling; no hidden convolution or layer of the head is part of it.
        """
        return Block(self.network, self._neck, clone_input=self._writes_input[-1])

    @cached_property
    def _neck(self) -> Program:
        last = len(self) - 1
        with fresh_caches():
            return neck_program(self._block(self._shadow, last, last + 1), self.signal(last))

    @cached_property
    def _neck_costs_and_dim(self) -> tuple[Costs, int]:
        neck = Block(self._shadow, self._neck)  # found by passes through the head: outside of the counter
        with meta_pass(), MacCounter() as counter:
            features = neck(torch.empty(self.signal(len(self) - 1).shape(1)))
        assert features.dim() == 2, f"the neck of {self.name} gives {tuple(features.shape)}"
        return Costs(num_params(neck), counter.macs), features.shape[1]

    @property
    def neck_dim(self) -> int:
        """Number of features behind the neck."""
        return self._neck_costs_and_dim[1]

    @property
    def neck_costs(self) -> Costs:
        """Of the neck, at the native resolution."""
        return self._neck_costs_and_dim[0]

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Where every parameter of the network stands, by its qualified name."""
        return parameter_origins(self)

    @property
    def costs(self) -> Costs:
        """Of the whole network, at the native resolution."""
        return self.block_costs(0, len(self))

    def _node(self, index: int, kind: str) -> Node:
        """Measure one node on the meta device."""
        source, target = self._signal_at(index), self._signal_at(index + 1)
        block = self._block(self._shadow, index, index + 1)
        x = torch.empty(source.shape(1), device="meta")
        version = x._version
        with meta_pass(), MacCounter() as counter:
            y = block(x)
        assert tuple(y.shape) == target.shape(1), f"node {index} of {self.name}: {tuple(y.shape)}, expected {target}"
        self._writes_input[index] = x._version != version
        name = " ".join(step.target for step in block.program.steps if step.kind == "module")
        return Node(index, name, kind, num_params(block), counter.macs, source, target)

    def _signal_at(self, cut: int) -> Signal:
        return self._slicer.signals[self._cuts[cut]]

    def _require_any_batch_size(self) -> None:
        """Lets many images through the blocks, on the meta device: what was recorded is the way of two."""
        with meta_pass():
            y = torch.empty(self._signal_at(0).shape(_LARGE_BATCH), device="meta")
            for index in range(len(self)):
                y = self._block(self._shadow, index, index + 1)(y)

    def _verify(self, example_input: torch.Tensor) -> None:
        parameter = next(self.network.parameters(), example_input)
        if parameter.device.type == "meta":
            return
        generator = torch.Generator().manual_seed(0)
        shape = (len(example_input) + 1, *example_input.shape[1:])
        noise = torch.randn(shape, generator=generator)
        noise[-1] *= 10  # what it does to the others is seen well
        beside = noise.to(parameter.device, example_input.dtype)
        x = beside[:-1]
        with torch.no_grad(), eval_mode(self.network):
            expected, y = self.network(x.clone()), x
            among_more = self.network(beside.clone())[:-1]
            for index in range(len(self)):
                y = self.block(index, index + 1)(y)
        if not torch.equal(y.nan_to_num(), expected.nan_to_num()):
            raise UserError(
                f"{self.name} cannot be sliced: its blocks in a row give another output than it (a hook on a "
                f"container, autocast around blocks, or a forward that changes from call to call); {ADVICE}"
            )
        tolerance = _OF_THE_BATCH if expected.dtype.itemsize >= 4 else _OF_THE_BATCH_IN_HALF
        if (among_more - expected).abs().max() > tolerance * expected.abs().max():
            raise UserError(
                f"{self.name} cannot be used: what it says of an image changes with the images beside it (a mean or a "
                "maximum over the batch in its forward?); mend that, or take another network"
            )


_LARGE_BATCH = 64
_OF_THE_BATCH = 0.005
_OF_THE_BATCH_IN_HALF = 0.05
"""Of the largest output: other kernels for another batch round otherwise, by far less."""


def _source(example_input: torch.Tensor) -> Signal:
    shape = example_input.shape
    if len(shape) == 2:
        return Signal("NC", shape[1], None)
    if len(shape) != 4:
        raise UserError(f"example_input has shape {tuple(shape)}: allowed are images (N, C, H, W) and vectors (N, C)")
    return Signal("NCHW", shape[1], (shape[2], shape[3]), stride=1.0)


def _anatomy(shadow: nn.Module, x: torch.Tensor, name: str) -> Anatomy:
    try:
        observation = observe(shadow, x)
    except FOREIGN_FAULTS as error:
        raise failed_forward(shadow, x, name, reason(error)) from error
    if not isinstance(observation, Observation):
        raise no_tensor(observation, name)
    return classify(observation)


def _by_hand(network: nn.Module, nodes: Sequence[str], name: str) -> Anatomy:
    known = {path for path, _ in network.named_modules() if path}
    unknown = [path for path in nodes if path not in known]
    if unknown or not nodes:
        raise UserError(f"{name} has no module {', '.join(unknown)}: nodes= takes names out of network.named_modules()")
    return Anatomy(tuple(nodes), frozenset(nodes))


def _unused_parameters(slicer: Slicer) -> tuple[Step, ...]:
    """Reads of the parameters that the forward never touches: they ride with the head, so that nothing is lost."""
    whole = Block(slicer.network, slicer.program)
    used = {id(parameter) for parameter in whole.parameters()}
    return tuple(
        Step(f"unused_{index}", "attribute", target)
        for index, (target, parameter) in enumerate(slicer.network.named_parameters())
        if id(parameter) not in used
    )
