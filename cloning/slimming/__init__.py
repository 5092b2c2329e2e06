"""Slimming: a source without its closed units, as a small network of its own.

``units`` follows every unit of every layer through one forward and finds which have to be cut together; ``plan`` says
for given gates which of them can go; ``cut`` makes the small network; ``slim`` compares it with the masked source.

Torch-Pruning's dependency graph does not fit: it couples the branches of a residual stream and narrows the stream,
while here gates close filters of one branch and the stream keeps its width; and it takes out what it is told to, while
here a channel may go only if all that reads it reads zeros.
"""

from cloning.slimming.slim import Slim, slim
from cloning.slimming.units import NetworkUnits, find_units, gate_macs

__all__ = ["NetworkUnits", "Slim", "find_units", "gate_macs", "slim"]
