"""The assembled network: blocks of different networks in series, adapters between them, a new head."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from reassembly.cuts import Beside, Packed, Unpacked
from tuning.heads import HeadRows, replace_head
from tuning.network import TunableNetwork
from tuning.reference import Reference
from zoo.blueprint import (
    AdapterSpec,
    BlockSpec,
    Bundle,
    ReassemblyBlueprint,
    check_digest,
    check_tensors,
    read_bundle,
)
from zoo.chain import Chain, Costs
from zoo.chain.costs import count
from zoo.chain.origins import Origin
from zoo.chain.signals import Signal, pool
from zoo.digests import digest
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo
from zoo.stitching.adapters import Adapter, adapter_costs
from zoo.storage.records import neighbours


class AssembledNetwork(TunableNetwork):
    """Blocks with adapters between them, a neck to pooled features, and a linear head.

    Names of parameters: ``blocks.<k>.<original name>``, ``adapters.<k>...``, ``neck.<original name>``, ``head...``.
    Freeze-Tuning trains adapters and head.

    Attributes:
        blueprint: What was built; its ``head.inputs`` says what the head reads.
        blocks: Own copies of the chains' blocks.
        adapters: One between each two blocks; identity where a block continues the one before it.
        pools: Mean pooling behind every block but the last, for a head that reads all cuts.
        neck: The last network's own way from its last block to its classifier, or mean pooling.
        head: New linear classifier.
        origins: Of the parameters of the networks that the blocks come from, by network and original name.
    """

    def __init__(
        self,
        blueprint: ReassemblyBlueprint,
        blocks: Sequence[nn.Module],
        adapters: Sequence[nn.Module],
        pools: Sequence[MeanPool],
        neck: nn.Module,
        head: nn.Linear,
        origins: Mapping[str, Mapping[str, Origin]],
    ) -> None:
        super().__init__()
        self.blueprint, self.class_names = blueprint, blueprint.head.classes
        self._origins = origins
        self.blocks = nn.ModuleList(blocks)
        self.adapters = nn.ModuleList(adapters)
        self.pools = tuple(pools)  # without parameters: no part of the state
        self.neck = neck
        self.head = head

    def stages(self) -> list[nn.Module]:
        """First block, then adapter and block in turn, then the neck; where the head reads all cuts, pooling beside."""
        stages = [self.blocks[0]]
        for adapter, block in zip(self.adapters, self.blocks[1:], strict=True):
            stages += [adapter, block]
        stages.append(self.neck)
        if not self._reads_all_cuts:
            return stages
        pools = {2 * k: pool for k, pool in enumerate(self.pools)}
        return [Beside(stage, pools.get(k), is_last=k == len(stages) - 1) for k, stage in enumerate(stages)]

    def frozen_prefix(self, mode: str) -> tuple[nn.Sequential, nn.Sequential]:
        """As of any network; what is pooled before the border between the two crosses it in one tensor."""
        prefix, rest = super().frozen_prefix(mode)
        if not self._reads_all_cuts or not len(prefix) or not len(rest):
            return prefix, rest
        signal = self.pools[(len(prefix) - 1) // 2].signal  # only adapters are trained: the border is before one
        return nn.Sequential(*prefix, Packed()), nn.Sequential(Unpacked(signal.shape(1)[1:]), *rest)

    @property
    def _reads_all_cuts(self) -> bool:
        return self.blueprint.head.inputs == "all_cuts"

    @property
    def head_inputs(self) -> str:
        """What the blueprint says that the head reads."""
        return self.blueprint.head.inputs

    def read(self, inputs: Literal["last", "all_cuts"], head: nn.Linear | None = None) -> None:
        """Lets the head read the last features, or those behind all blocks; without one given it begins at zero."""
        if head is None:
            sizes = [pool.signal.channels for pool in self.pools] if inputs == "all_cuts" else []
            old = self.head
            head = skip_init(nn.Linear, sum(sizes) + self._num_last, old.out_features, dtype=old.weight.dtype)
            head = head.to(old.weight.device).requires_grad_(old.weight.requires_grad).train(old.training)
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        self.head = head
        self.blueprint = replace(self.blueprint, head=replace(self.blueprint.head, inputs=inputs))

    @property
    def _num_last(self) -> int:
        """Features behind the last block."""
        inner = sum(pool.signal.channels for pool in self.pools) if self._reads_all_cuts else 0
        return self.head.in_features - inner

    def trainable_modules(self, mode: str) -> list[nn.Module]:
        """Freeze-Tuning trains adapters and head; the other modes as everywhere."""
        if mode != "freeze":
            return list(super().trainable_modules(mode))
        return [*(adapter for adapter in self.adapters if isinstance(adapter, Adapter)), self.head]

    def origins(self) -> dict[str, Origin]:
        """Of the parameters of blocks and neck, each in the chain of its own network."""
        parts = [(f"blocks.{k}", *part) for k, part in enumerate(zip(self.blocks, self.blueprint.blocks, strict=True))]
        return {
            f"{prefix}.{name}": self._origins[spec.network][name]
            for prefix, module, spec in [*parts, ("neck", self.neck, self.blueprint.blocks[-1])]
            for name, _ in module.named_parameters()
        }


class MeanPool(nn.Module):
    """The mean over a signal's grid, without prefix tokens: (N, C). The neck of a network cut off before its end."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, x: Tensor) -> Tensor:
        return pool(x, self.signal)


def assemble(
    blueprint: ReassemblyBlueprint,
    chains: Mapping[str, Chain],
    *,
    generator: torch.Generator | None = None,
    check_digests: bool = True,
) -> AssembledNetwork:
    """Builds the network that a blueprint describes, in eval mode, with random adapters and a random head.

    It lies where the chains do; what is random is drawn on the CPU, the same for every device.

    ``reassembly.stitch.stitch`` then fills those adapters whose blueprint says ``closed_form``; until then a kernel
    size ``auto`` stands for the larger, 3.

    Args:
        blueprint: What to build.
        chains: Of all networks it names, and perhaps more; they stay untouched.
        generator: Of adapters and head, in this order; without one, a fresh generator with seed 0.
        check_digests: Compare the chains' weights with the blueprint's digests.

    Raises:
        UserError: An unknown network, nodes that its chain does not have, or other weights than the blueprint's.
    """
    check_blueprint(blueprint, chains, check_digests=check_digests)
    generator = generator or torch.Generator().manual_seed(0)
    adapters = []
    for before, spec, block in zip(blueprint.blocks, blueprint.adapters, blueprint.blocks[1:], strict=False):
        adapters.append(_adapter(before, spec, block, chains, generator))
    blocks = [copy.deepcopy(chains[block.network].block(*block.nodes)) for block in blueprint.blocks]
    neck, num_features = _neck(blueprint.blocks[-1], chains)
    pools = [MeanPool(chains[block.network].signal(block.nodes[1])) for block in blueprint.blocks[:-1]]
    if blueprint.head.inputs == "all_cuts":
        num_features += sum(pool.signal.channels for pool in pools)
    head = skip_init(nn.Linear, num_features, blueprint.head.size)
    with torch.no_grad():
        head.weight.normal_(0, 1 / math.sqrt(num_features), generator=generator)
        head.bias.zero_()
    origins = {name: chains[name].origins for name in {block.network for block in blueprint.blocks}}
    network = AssembledNetwork(blueprint, blocks, adapters, pools, neck, head, origins).eval()
    devices = (parameter.device for block in blocks for parameter in block.parameters())
    return network.to(next(devices, head.weight.device))


def check_blueprint(blueprint: ReassemblyBlueprint, chains: Mapping[str, Chain], *, check_digests: bool = True) -> None:
    """Raises ``UserError`` where the chains cannot give what the blueprint names."""
    for block in blueprint.blocks:
        if block.network not in chains:
            known = neighbours(block.network, chains)
            raise UserError(f"the blueprint names the unknown network {block.network!r}: {known}")
        last = len(chains[block.network]) - 1
        if block.nodes[1] > last:
            raise UserError(
                f"nodes {list(block.nodes)} of {block.network!r}: its blocks end at node {last} at the latest "
                f"(node {last} is its head, which is replaced)"
            )
    for name, expected in blueprint.networks.items() if check_digests else ():
        check_digest(name, expected, digest(chains[name].network))


def assembled_costs(blueprint: ReassemblyBlueprint, chains: Mapping[str, Chain]) -> Costs:
    """Exact parameters and MACs of the assembled network, without building it: the sum over its parts."""
    last = blueprint.blocks[-1]
    total = ending_costs(last, chains[last.network], blueprint.head.size)
    for block in blueprint.blocks:
        total += chains[block.network].block_costs(*block.nodes)
    for before, spec, block in zip(blueprint.blocks, blueprint.adapters, blueprint.blocks[1:], strict=False):
        total += seam_costs(before, spec, block, chains)
        if blueprint.head.inputs == "all_cuts":
            total += cut_costs(before, chains[before.network], blueprint.head.size)
    return total


def seam_costs(before: BlockSpec, spec: AdapterSpec, block: BlockSpec, chains: Mapping[str, Chain]) -> Costs:
    """Exact costs of the adapter between two blocks; ``auto`` counts as the larger kernel."""
    if spec.kind == "none":
        return Costs(0, 0)
    source, target = boundary(before, block, chains)
    return adapter_costs(source, target, spec.kind, largest_kernel_size(spec))


def ending_costs(last: BlockSpec, chain: Chain, num_classes: int) -> Costs:
    """Exact costs of neck and head behind a network's last block."""
    at_end = _ends_at_its_networks_end(last, chain)
    num_features = chain.neck_dim if at_end else chain.signal(last.nodes[1]).channels
    head = Costs(num_params=(num_features + 1) * num_classes, macs=num_features * num_classes)
    return head + chain.neck_costs if at_end else head


def cut_costs(block: BlockSpec, chain: Chain, num_classes: int) -> Costs:
    """Exact costs of the columns of a head on all cuts that read the features behind a block that is not the last."""
    size = chain.signal(block.nodes[1]).channels * num_classes
    return Costs(num_params=size, macs=size)


def boundary(before: BlockSpec, block: BlockSpec, chains: Mapping[str, Chain]) -> tuple[Signal, Signal]:
    """The signals on both sides of an adapter."""
    return chains[before.network].signal(before.nodes[1]), chains[block.network].signal(block.nodes[0])


def largest_kernel_size(spec: AdapterSpec) -> int:
    """The kernel size of an adapter, where ``auto`` is not yet decided the largest that it may become."""
    if spec.kernel_size == "auto":
        return 1 if spec.kind == "paper" else 3
    return spec.kernel_size


def home_reference(network: AssembledNetwork, chains: Mapping[str, Chain], zoo: Zoo) -> Reference:
    """The network that the last block comes from, up to the features that the head reads: what it was made to give.

    Args:
        network: Whose tail it is.
        chains: The untouched originals; it is a copy.
    """
    last = network.blueprint.blocks[-1]
    chain, spec = chains[last.network], zoo.entry(last.network).input
    parts = [chain.block(0, last.nodes[1]), _neck(last, chains)[0]]
    home = copy.deepcopy(nn.Sequential(*parts)).eval().requires_grad_(False)
    return Reference(last.network, home, spec, count(home, spec.example()))


def to_bundle(network: AssembledNetwork, chains: Mapping[str, Chain], *, complete: bool = False) -> Bundle:
    """What a network has learnt: adapters, head, and every tensor of its blocks and neck that differs from the zoo's.

    Args:
        network: Assembled from ``chains``, then tuned.
        chains: The untouched originals.
        complete: Take all tensors (after Full-Tuning), so that loading needs no weights of the zoo.
    """
    tensors = network.state_dict()
    if not complete:
        originals = assemble(network.blueprint, chains).state_dict()
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if _is_new(name) or not torch.equal(tensor.cpu(), originals[name].cpu())
        }
    return Bundle(network.blueprint, {name: tensor.detach().clone() for name, tensor in tensors.items()}, complete)


def from_bundle(bundle: Bundle, chains: Mapping[str, Chain]) -> AssembledNetwork:
    """Rebuilds the network, in eval mode; its outputs are bit-equal to those of the network that was saved.

    The weights of ``chains`` are checked against the blueprint's digests unless the bundle is complete.

    Raises:
        UserError: As ``assemble``, or tensors that do not fit the blueprint.
    """
    network = assemble(bundle.blueprint, chains, check_digests=not bundle.complete)
    state = network.state_dict()
    check_tensors(bundle.tensors, state, is_required=lambda name: bundle.complete or _is_new(name), where="bundle")
    network.load_state_dict({**state, **bundle.tensors})
    return network


def load(directory: str | Path, zoo: Zoo) -> AssembledNetwork:
    """Rebuilds the network of a bundle's directory with the networks of a zoo, in eval mode.

    Raises:
        UserError: As ``read_bundle`` and ``rebuild``.
    """
    return rebuild(read_bundle(directory), zoo)


def rebuild(bundle: Bundle, zoo: Zoo) -> AssembledNetwork:
    """Rebuilds the network of a bundle with the networks of a zoo, in eval mode.

    For a complete bundle no weights of the zoo are read, so that their files may be missing.

    Raises:
        UserError: As ``load_chain`` and ``from_bundle``, or a network that the zoo lacks.
    """
    entries = {name: zoo.entry(name) for name in bundle.blueprint.networks}
    if bundle.complete:
        entries = {name: replace(entry, weights=None) for name, entry in entries.items()}
    return from_bundle(bundle, {name: load_chain(entry) for name, entry in entries.items()})


def use_rows(network: AssembledNetwork, rows: HeadRows, *, seed: int) -> None:
    """Gives a network, in place, the head and the classes of other data; rows made anew are drawn from ``seed``."""
    replace_head(network, rows, torch.Generator().manual_seed(seed))
    head = replace(network.blueprint.head, classes=rows.classes, num_classes=None)
    network.blueprint = replace(network.blueprint, head=head)


def _is_new(name: str) -> bool:
    return name.startswith(("adapters.", "head."))


def _adapter(
    before: BlockSpec, spec: AdapterSpec, block: BlockSpec, chains: Mapping[str, Chain], generator: torch.Generator
) -> nn.Module:
    if spec.kind == "none":
        return nn.Identity()
    source, target = boundary(before, block, chains)
    kernel_size, is_own = largest_kernel_size(spec), spec.initialisation == "identity"
    return Adapter(source, target, kind=spec.kind, kernel_size=kernel_size, generator=generator, is_residual=is_own)


def _neck(last: BlockSpec, chains: Mapping[str, Chain]) -> tuple[nn.Module, int]:
    chain = chains[last.network]
    if _ends_at_its_networks_end(last, chain):
        return copy.deepcopy(chain.neck()), chain.neck_dim
    signal = chain.signal(last.nodes[1])
    return MeanPool(signal), signal.channels


def _ends_at_its_networks_end(last: BlockSpec, chain: Chain) -> bool:
    return last.nodes[1] == len(chain) - 1
