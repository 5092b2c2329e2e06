"""Where the parameters of a pre-trained network stand in it, for learning rates and decay that depend on that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from zoo.chain.chain import Chain


@dataclass(frozen=True)
class Origin:
    """The place of a parameter in the network that it was pre-trained in.

    Attributes:
        network: Its name.
        node: Index of the first node of its chain that uses the parameter; 0 is the stem.
        num_nodes: Of the whole chain; the last node is the head.
        is_undecayed: Whether the network itself lists it as one that weight decay leaves out.
    """

    network: str
    node: int
    num_nodes: int
    is_undecayed: bool = False

    @property
    def depth_from_end(self) -> int:
        """Nodes between this one and the head: 0 for the head itself."""
        return self.num_nodes - 1 - self.node


def parameter_origins(chain: Chain) -> dict[str, Origin]:
    """The origin of every parameter of a chain's network by qualified name, under all names that it has."""
    shadow = chain.without_data()
    undecayed = _undecayed_patterns(shadow.network)
    found: dict[str, Origin] = {}
    for node in range(len(chain)):
        for name, _ in shadow.block(node, node + 1).named_parameters(remove_duplicate=False):
            found.setdefault(name, Origin(chain.name, node, len(chain), _matches(name, undecayed)))
    return found


def _undecayed_patterns(network: nn.Module) -> set[str]:
    """What the network, or a part of it, lists by timm's convention: names or wildcards of ``no_weight_decay()``."""
    found = set()
    for path, module in network.named_modules():
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            found |= {f"{path}.{name}" if path else str(name) for name in listed()}
    return found


def _matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a pattern names the parameter, or a module that it belongs to (Swin V2 lists ``...cpb_mlp``)."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)
