"""A network as a chain: nodes in series, between which runs exactly one tensor. ``README.md`` says why it works so."""

from __future__ import annotations

from zoo.chain.chain import Chain, Node, Nodes
from zoo.chain.costs import Costs
from zoo.chain.signals import Signal

__all__ = ["Chain", "Costs", "Node", "Nodes", "Signal"]
