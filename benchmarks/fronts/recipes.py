"""Recipes of networks: compositions, and the controls that no blueprint describes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import nn

from benchmarks.fronts.task import Task
from reassembly.network import AssembledNetwork, assemble, assembled_costs, largest_kernel_size
from reassembly.settings import Budget
from reassembly.stitch import stitch
from tuning.network import TunableNetwork
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint, composition
from zoo.chain import Costs
from zoo.chain_cache import ChainCache
from zoo.loading import build_network


@dataclass(frozen=True)
class Recipe:
    """A network to tune.

    Attributes:
        blocks: In series.
        adapters: One between each two blocks.
        head_inputs: What its head reads: ``last``, ``all_cuts``, or ``auto``: tuning decides.
        random_blocks: Indices of blocks whose weights are drawn anew, the neck with the last one.
        lora_rank: Of trained low-rank terms on all layers; 0 has none.
        teacher: Network of the zoo that is tuned first and then followed; None follows labels alone.
    """

    blocks: tuple[BlockSpec, ...]
    adapters: tuple[AdapterSpec, ...] = ()
    head_inputs: str = "last"
    random_blocks: tuple[int, ...] = ()
    lora_rank: int = 0
    teacher: str | None = None

    @classmethod
    def of(cls, blueprint: ReassemblyBlueprint) -> Recipe:
        """The recipe of a blueprint."""
        return cls(blueprint.blocks, blueprint.adapters, blueprint.head.inputs)

    @property
    def names(self) -> tuple[str, ...]:
        """Networks that it needs, each once."""
        names = (*(block.network for block in self.blocks), *([self.teacher] if self.teacher else []))
        return tuple(dict.fromkeys(names))

    def __str__(self) -> str:
        kinds = dict.fromkeys(spec.initialisation for spec in self.adapters if spec.kind != "none")
        marks = [f"{kind} adapters" for kind in kinds if kind != "closed_form"]
        marks += [f"blocks {list(self.random_blocks)} random"] if self.random_blocks else []
        marks += [f"LoRA rank {self.lora_rank}"] if self.lora_rank else []
        marks += [f"taught by {self.teacher}"] if self.teacher else []
        return f"{composition(joined_pieces(self))}{' (' + ', '.join(marks) + ')' if marks else ''}"


def joined_pieces(recipe: Recipe) -> list[BlockSpec]:
    """The blocks of a recipe, those with nothing between them as one."""
    told = list(recipe.blocks[:1])
    for adapter, block in zip(recipe.adapters, recipe.blocks[1:], strict=True):
        if adapter.kind == "none":
            block = BlockSpec(block.network, (told.pop().nodes[0], block.nodes[1]))
        told.append(block)
    return told


def with_head(recipe: Recipe, task: Task, budget: Budget) -> Recipe:
    """The recipe under the rule of ``head.inputs``, which is one for all: a head on all cuts needs room in the budget.

    The cuts of a network of one piece are those of the partition.
    """
    rule = task.settings.head.inputs
    if rule == "last" or recipe.lora_rank or recipe.head_inputs != "last":
        return recipe
    partition = task.catalogue.partition
    cuts = dict(zip(partition.networks, partition.cuts, strict=True))
    blocks, adapters = [], []
    for index, block in enumerate(recipe.blocks):
        inner = [cut for cut in cuts[block.network] if block.nodes[0] < cut < block.nodes[1]]
        pieces = [BlockSpec(block.network, pair) for pair in pairwise([block.nodes[0], *inner, block.nodes[1]])]
        adapters += [*recipe.adapters[index - 1 : index], *[AdapterSpec("none")] * (len(pieces) - 1)]
        blocks += pieces
    wide = replace(recipe, blocks=tuple(blocks), adapters=tuple(adapters), head_inputs="all_cuts")
    cost = costs(wide, task)
    if len(blocks) == 1 or not budget.admits(cost.num_params, cost.macs):
        return recipe
    return replace(wide, head_inputs=rule)


def blueprint_of(recipe: Recipe, task: Task) -> ReassemblyBlueprint:
    """What of a recipe a blueprint can say."""
    names = dict.fromkeys(block.network for block in recipe.blocks)
    return ReassemblyBlueprint(
        recipe.blocks,
        recipe.adapters,
        HeadSpec(classes=task.data.class_names, inputs=recipe.head_inputs),
        {name: task.descriptions[name].digest for name in names},
    )


def costs(recipe: Recipe, task: Task) -> Costs:
    """Exact parameters and MACs of an image, head included; low-rank terms are merged and cost nothing."""
    return assembled_costs(blueprint_of(recipe, task), task.descriptions)


def random_adapters(spec: AdapterSpec) -> AdapterSpec:
    """The same adapter with random weights; where there is none, there is none."""
    if spec.kind == "none":
        return spec
    return replace(spec, kernel_size=largest_kernel_size(spec), initialisation="random")


def build(recipe: Recipe, task: Task) -> TunableNetwork:
    """The network of a recipe, adapters initialised, in eval mode; everything random depends on the split's seed."""
    generator = torch.Generator().manual_seed(task.seed)
    network = assemble(blueprint_of(recipe, task), task.chains, generator=generator)
    for index in recipe.random_blocks:
        _draw_anew(network, index, task.chains, task)
    network = stitch(network, task.chains, task.search.images_for, seed=task.seed)
    return LoRANetwork(network, recipe.lora_rank, task.seed) if recipe.lora_rank else network


def _draw_anew(network: AssembledNetwork, index: int, chains: ChainCache, task: Task) -> None:
    block = network.blueprint.blocks[index]
    entry = task.zoo[block.network]
    drawn = build_network(replace(entry, name=f"{entry.name} {task.seed}", weights=None)).cpu().eval()
    chain = chains[block.network].over(drawn)
    network.blocks[index] = copy.deepcopy(chain.block(*block.nodes))
    if index == len(network.blocks) - 1 and block.nodes[1] == len(chain) - 1:
        network.neck = copy.deepcopy(chain.neck())


class LoRANetwork(TunableNetwork):
    """A network whose layers have trained terms of low rank (LoRA, arXiv 2106.09685); Freeze trains these and the head.

    Args:
        network: Frozen otherwise; it becomes part of this one.
        rank: Of every term.
        seed: Of their weights; they begin as zero, since one of the two factors does.
    """

    def __init__(self, network: AssembledNetwork, rank: int, seed: int) -> None:
        super().__init__()
        from peft import LoraConfig, inject_adapter_in_model  # heavy, and an extra

        targets = lora_targets(network.blocks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, bias="none")
            inject_adapter_in_model(config, network.blocks)
        self.blocks, self.neck, self.head = network.blocks, network.neck, network.head
        self.class_names = network.class_names
        self.eval()

    def stages(self) -> list[nn.Module]:
        """Blocks, then the neck."""
        return [*self.blocks, self.neck]

    def trainable_modules(self, mode: str) -> Sequence[nn.Module]:
        """Freeze trains the terms of low rank and the head; the other modes as everywhere."""
        if mode != "freeze":
            return super().trainable_modules(mode)
        terms = [module for name, module in self.blocks.named_modules() if name.endswith((".lora_A", ".lora_B"))]
        return [*terms, self.head]


def lora_targets(blocks: nn.Module) -> list[str]:
    """Names of the layers that get a term: linear ones, and convolutions of one group."""
    return [
        name
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]


def lora_rank(blocks: nn.Module, num_params: int) -> int:
    """The largest rank whose terms have at most so many parameters, at least 1."""
    each = 0
    for name in lora_targets(blocks):
        weight = blocks.get_submodule(name).weight
        each += weight[0].numel() + weight.shape[0]
    return max(1, num_params // max(each, 1))
