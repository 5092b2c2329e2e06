"""From an entry of a zoo to its network and its chain."""

from __future__ import annotations

from torch import nn

from zoo.builders import build, seeded
from zoo.chain import Chain
from zoo.entries import ZooEntry
from zoo.weights import load_file, require_finite


def load_network(entry: ZooEntry) -> nn.Module:
    """The network of an entry: in eval mode, on the CPU, with its weights loaded and checked.

    Raises:
        UserError: Unknown architecture or factory, arguments it refuses, weights that cannot be had, do not fit, or
            hold NaN.
    """
    network = build_network(entry, published=True)
    if entry.weights is not None and entry.weights.file is not None:
        load_file(network, entry.weights, entry.name)
    require_finite(network, network.state_dict(), entry.name)
    return network.cpu().eval()


def build_network(entry: ZooEntry, *, published: bool = False) -> nn.Module:
    """The network of an entry on the default device, its weights random and drawn from the name.

    Under `torch.device("meta")` it costs no memory. No file is read, and nothing is downloaded unless `published`.

    Args:
        entry: Of a zoo.
        published: Take the weights that `weights.hub` names.

    Raises:
        UserError: As in `load_network`.
    """
    with seeded(entry.name):
        return build(entry, published=published)


def load_chain(entry: ZooEntry) -> Chain:
    """The chain of an entry's network; refusals as in `load_network` and `Chain.from_network`."""
    return Chain.from_network(load_network(entry), entry.input.example(), name=entry.name, nodes=entry.nodes)
