"""What is known of a sliced network without the network: enough to cut it, cost it and name it in a later run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.chain import Chain, Costs, Node, Nodes
from zoo.digests import digest
from zoo.entries import ZooEntry
from zoo.storage.records import to_plain
from zoo.storage.sources import module_digest
from zoo.weights import weights_sha256


@dataclass(frozen=True)
class ChainDescription(Nodes):
    """A chain as plain data, kept beside its features so that a repeated search loads no network.

    Attributes:
        digest: of the network's parameters and buffers.
        nodes: stem, body and head, as in :class:`zoo.chain.Chain`.
        neck_costs: parameters and MACs of the final norm and pooling in front of a new head.
        neck_dim: features the neck gives.
    """

    name: str
    digest: str
    nodes: tuple[Node, ...]
    neck_costs: Costs
    neck_dim: int


def describe(chain: Chain) -> ChainDescription:
    """Returns the description of a chain."""
    return ChainDescription(chain.name, digest(chain.network), chain.nodes, chain.neck_costs, chain.neck_dim)


def identity(entry: ZooEntry) -> dict[str, Any]:
    """Returns what decides an entry's network and its features, as plain data for content keys.

    A file of weights counts by its bytes, not by its path; names and remarks do not count, except that a network
    without weights is drawn from its name. A user's factory counts by its source files too.
    """
    plain = to_plain(entry)
    fields = {key: plain.get(key) for key in ("source", "model", "kwargs", "input", "nodes", "weights")}
    if ":" in entry.source:
        fields["code"] = module_digest(entry.source.partition(":")[0])
    if entry.weights is None:
        fields["name"] = entry.name
    elif (sha256 := weights_sha256(entry.weights)) is not None:
        fields["weights"] = {**fields["weights"], "file": sha256}
        if entry.weights.convert is not None:
            fields["converter"] = module_digest(entry.weights.convert.partition(":")[0])
    return fields
