"""A cloned network as a diagram: the target, the modules with what is kept of them, where they branch off, the head."""

from __future__ import annotations

from collections.abc import Sequence

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork
from cloning.gates import split_gates
from cloning.network import ClonedNetwork
from figures.diagram import Diagram, Part, letters, listed_classes
from zoo.chain.costs import num_params
from zoo.stitching.adapters import Adapter, adapter_costs


def cloned_diagram(network: ClonedNetwork, networks: Sequence[str] = ()) -> Diagram:
    """The diagram of a cloned network. Its MACs are those of the network, its parameters those of the nodes that run.

    Args:
        network: The network.
        networks: Names in the order that decides their colours, such as those of the zoo.
    """
    target, tags = network.target, letters(len(network.clones))
    branches: dict[int, str] = {}
    for clone, tag in zip(network.clones, tags, strict=True):
        at = branches.get(clone.position)
        branches[clone.position] = f"{at}, {tag}" if at else tag
    costs = target.chain.block_costs(0, len(target.chain))
    own = target.num_features, network.num_target_features - target.num_features
    parts = [
        Part(
            kind="target",
            title=target.name,
            note=f"target, unchanged, {listed_classes(network.kept_classes, len(network.kept_classes), 50)}",
            num_params=costs.num_params,
            macs=costs.macs,
            network=target.name,
            nodes=(1.0,) * len(target.chain),
            signal=f"{' + '.join(map(str, filter(None, own)))} features",
            branches=branches,
        )
    ]
    for clone, adapter, tag in zip(network.clones, network.adapters, tags, strict=True):
        if isinstance(adapter, Adapter):
            parts.append(_adapter(adapter, tag))
        parts.append(_module(target, clone, tag))
    head = network.head
    parts.append(
        Part(
            kind="head",
            title="head",
            note=f"linear, {head.in_features:,} features of target and modules to {head.out_features:,}",
            num_params=num_params(head),
            macs=head.in_features * head.out_features,
        )
    )
    modules = f"{len(network.clones)} module{'s' if len(network.clones) != 1 else ''}"
    title = f"Cloned: {target.name} with {modules} of other networks"
    classes = listed_classes(network.classes, len(network.classes))
    return Diagram(title, str(target.chain.signal(0)), tuple(parts), classes, tuple(networks))


def kept_per_node(clone: Clone, start: int) -> tuple[float, ...]:
    """For every node of the source the share of its gates that are open; 1 without gates, 0 before ``start``."""
    found = [[0, 0] for _ in clone.source.chain.nodes]
    for site, gates in zip(clone.source.sites, split_gates(clone.gates, clone.source.sites), strict=True):
        found[site.node][0] += int(gates.sum())
        found[site.node][1] += len(gates)
    shares = [kept / of if of else 1.0 for kept, of in found]
    return tuple(share if node >= start else 0.0 for node, share in enumerate(shares))


def _module(target: FrozenNetwork, clone: Clone, tag: str) -> Part:
    source = clone.source
    start = source_position(target, source, clone.position)
    costs = clone.slim(start).costs
    sites = zip(source.sites, split_gates(clone.gates, source.sites), strict=True)
    gates = [(int(part.sum()), len(part)) for site, part in sites if site.node >= start]
    kept, of = (sum(column) for column in zip(*gates, strict=True)) if gates else (0, 0)
    share = f"{100 * kept / of:.0f} % of its units" if of else "no gates"
    share += "" if clone.selected is None else f", {clone.num_features} features"
    place = "reads the image" if clone.position == 0 else f"from node {start} on"
    return Part(
        kind="module",
        title=source.name,
        note=f"gives {listed_classes(clone.classes, len(clone.classes), 24)}; {place}, {share}",
        num_params=costs.num_params,
        macs=costs.macs,
        network=source.name,
        nodes=kept_per_node(clone, start),
        signal=f"{clone.num_features} features",
        tag=tag,
    )


def _adapter(adapter: Adapter, tag: str) -> Part:
    costs = adapter_costs(adapter.source, adapter.target, adapter.kind, adapter.kernel_size)
    note = f"{adapter.kind}, {adapter.kernel_size}x{adapter.kernel_size}, initialised in closed form"
    return Part("adapter", "adapter", note, costs.num_params, costs.macs, signal=str(adapter.target), tag=tag)
