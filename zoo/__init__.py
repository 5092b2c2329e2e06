"""The ground floor: pre-trained networks as chains of blocks, and what it takes to keep and connect them.

Rooms, of which each knows only those above it in this list: ``errors``; ``storage`` (files, records, stage results);
``chain`` (a network as a chain of blocks); ``stitching`` (adapters); ``blueprint`` (what was composed); and the zoo
itself (entries, registry, weights, loading). What others build on stands below, and is imported when first asked for.
"""

from __future__ import annotations

from zoo.lazy import exports

_PLACES = {
    "zoo.errors": ("UserError",),
    "zoo.chain": ("Chain", "Costs", "Node", "Signal"),
    "zoo.entries": ("InputSpec", "ZooEntry"),
    "zoo.weights": ("Weights",),
    "zoo.registry": ("Zoo", "find_entry", "read_zoo"),
    "zoo.loading": ("load_chain", "load_network"),
    "zoo.stitching.adapters": ("Adapter", "AdapterFit", "closed_form_adapter"),
    "zoo.blueprint": (
        "Bundle",
        "ReassemblyBlueprint",
        "read_blueprint",
        "read_bundle",
        "write_blueprint",
        "write_bundle",
    ),
}
__all__, __getattr__ = exports("zoo", _PLACES)
