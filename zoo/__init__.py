"""The ground floor: pre-trained networks as chains of blocks, and what it takes to keep and connect them.

Rooms, of which each knows only those above it in this list: ``errors``; ``storage`` (files, records, stage results);
``chain`` (a network as a chain of blocks); ``stitching`` (adapters); ``blueprint`` (what was composed); and the zoo
itself (entries, registry, weights, loading).
"""

from __future__ import annotations

from zoo.chain import Chain, Costs, Node, Signal
from zoo.errors import UserError

__all__ = ["Chain", "Costs", "Node", "Signal", "UserError"]
