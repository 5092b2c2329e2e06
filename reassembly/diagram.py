"""A recipe as a diagram: blocks with the nodes they take of their networks, adapters and head, and their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from figures.diagram import Diagram, Part, listed_classes
from reassembly.network import cut_costs, ending_costs, seam_costs
from zoo.blueprint import AdapterSpec, BlockSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.description import ChainDescription

INITIALISATIONS = {
    "closed_form": "initialised in closed form",
    "random": "random at first",
    "identity": "the identity at first",
}


def composed_diagram(
    blueprint: ReassemblyBlueprint, chains: Mapping[str, Chain | ChainDescription], networks: Sequence[str] = ()
) -> Diagram:
    """The diagram of a composed network; its costs add up to those of the network.

    Args:
        blueprint: The recipe.
        chains: Of all networks that it names.
        networks: Names in the order that decides their colours, such as those of the zoo.
    """
    parts = [_block(blueprint.blocks[0], chains)]
    for before, spec, block in zip(blueprint.blocks, blueprint.adapters, blueprint.blocks[1:], strict=False):
        if spec.kind != "none":
            parts.append(_adapter(before, spec, block, chains))
        parts.append(_block(block, chains))
    last, size = blueprint.blocks[-1], blueprint.head.size
    costs = ending_costs(last, chains[last.network], size)
    at_end = last.nodes[1] == len(chains[last.network]) - 1
    reads = ""
    if blueprint.head.inputs == "all_cuts":
        costs = sum((cut_costs(block, chains[block.network], size) for block in blueprint.blocks[:-1]), costs)
        reads = ", with the means behind every block"
    neck = "norm and pooling of its network" if at_end else "mean over the grid"
    parts.append(Part("head", "head", f"{neck}{reads}, linear to {size:,}", costs.num_params, costs.macs))
    image = chains[blueprint.blocks[0].network].signal(0)
    classes = listed_classes(blueprint.head.classes, size)
    used = len({block.network for block in blueprint.blocks})
    title = f"Composed of blocks of {used} networks" if used > 1 else f"Of one network: {last.network}"
    return Diagram(title, str(image), tuple(parts), classes, tuple(networks))


def _block(block: BlockSpec, chains: Mapping[str, Chain | ChainDescription]) -> Part:
    chain, (start, stop) = chains[block.network], block.nodes
    costs = chain.block_costs(start, stop)
    count = f"nodes {start} to {stop - 1}" if stop - start > 1 else f"node {start}"
    return Part(
        kind="block",
        title=block.network,
        note=f"{count} of 0 to {len(chain) - 1}: [{start}, {stop}] in the recipe",
        num_params=costs.num_params,
        macs=costs.macs,
        network=block.network,
        nodes=tuple(float(start <= node < stop) for node in range(len(chain))),
        signal=str(chain.signal(stop)),
    )


def _adapter(
    before: BlockSpec, spec: AdapterSpec, block: BlockSpec, chains: Mapping[str, Chain | ChainDescription]
) -> Part:
    costs = seam_costs(before, spec, block, chains)
    size = (
        "kernel 1 or 3, whichever fits better"
        if spec.kernel_size == "auto"
        else f"{spec.kernel_size}x{spec.kernel_size}"
    )
    note = f"{spec.kind}, {size}, {INITIALISATIONS[spec.initialisation]}"
    signal = str(chains[block.network].signal(block.nodes[0]))
    return Part("adapter", "adapter", note, costs.num_params, costs.macs, signal=signal)
