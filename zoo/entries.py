"""What a zoo knows about a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.weights import Weights


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
