"""What a zoo knows about a network, and the way from there to the network and its chain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.builders import build
from zoo.chain import Chain
from zoo.errors import UserError
from zoo.weights import Weights, load_file


@dataclass(frozen=True)
class InputSpec:
    """The images a network takes: float32 (N, channels, height, width), in [0, 1] before `(x - mean) / std`."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise UserError(f"input: {self.channels} x {self.height} x {self.width} pixels, expected at least 1 each")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(f"input.{name}: got {len(values)} values for {self.channels} channels")
        if min(self.std) <= 0:
            raise UserError(f"input.std: got {min(self.std)}, expected values above 0")

    def example(self, batch: int = 1) -> Tensor:
        """Zeros of the shape the network takes."""
        return torch.zeros(batch, self.channels, self.height, self.width)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent on the network's own task: of the weights given, and the range over training seeds."""

    given: float
    lowest: float
    highest: float
    num_seeds: int


@dataclass(frozen=True)
class ZooEntry:
    """One network of a zoo.

    Attributes:
        name: Its name in the zoo.
        source: `timm`, `torchvision`, or `module:factory` of a function that returns the network.
        input: What it takes.
        model: Name of the architecture, where the source is timm or torchvision.
        kwargs: Passed to the source.
        weights: None leaves random weights, drawn from the name.
        classes: Names of its outputs in their order; empty if nothing depends on them.
        nodes: Qualified names of the modules that become nodes, for a network whose chain cannot be derived.
        description: What it was trained on, for tables.
        accuracy: What the weights reach.
        command: What makes the weights.
    """

    name: str
    source: str
    input: InputSpec
    model: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    classes: tuple[str, ...] = ()
    nodes: tuple[str, ...] | None = None
    description: str = ""
    accuracy: Accuracy | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if self.source in ("timm", "torchvision"):
            if not self.model:
                raise UserError(f"{self.name}: source {self.source} needs `model`, the name of the architecture")
        else:
            module, _, factory = self.source.partition(":")
            if not (module and factory):
                raise UserError(f"{self.name}: source {self.source!r}, expected timm, torchvision or module:factory")
            if self.model:
                raise UserError(
                    f"{self.name}: `model` belongs to timm and torchvision; give {self.source} its `kwargs`"
                )
            if self.hub:
                raise UserError(f"{self.name}: {self.source} has no hub; give weights.file")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise UserError(f"{self.name}: classes given twice: {', '.join(repeated)}")

    @property
    def hub(self) -> str | bool | None:
        """Tag of the published weights, True for those of the default tag, or None."""
        return self.weights.hub if self.weights is not None else None


def load_network(entry: ZooEntry) -> nn.Module:
    """The network of an entry: in eval mode, on the CPU, with its weights loaded and checked.

    Raises:
        UserError: Unknown architecture or factory, arguments it refuses, weights that cannot be had or do not fit.
    """
    network = build_network(entry, published=True)
    if entry.weights is not None and entry.weights.file is not None:
        load_file(network, entry.weights, entry.name)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hashlib.sha256(entry.name.encode()).hexdigest()[:8], 16))
        return build(entry, published=published)


def load_chain(entry: ZooEntry) -> Chain:
    """The chain of an entry's network; refusals as in `load_network` and `Chain.from_network`."""
    return Chain.from_network(load_network(entry), entry.input.example(), name=entry.name, nodes=entry.nodes)
