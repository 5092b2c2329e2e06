"""The ground floor: pre-trained networks as chains of blocks, and what it takes to keep and connect them."""

from __future__ import annotations

from zoo.chain import Chain, Node
from zoo.costs import Costs
from zoo.errors import UserError
from zoo.signals import Signal

__all__ = ["Chain", "Costs", "Node", "Signal", "UserError"]
