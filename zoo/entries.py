"""What a zoo knows about a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.limits import above, at_least, declared, require, shown
from zoo.weights import Weights

_WEIGHTS_AS_KWARGS = {
    "pretrained": "weights: {hub: true}",
    "weights": "weights: {hub: true}, or weights: {hub: TAG}",
    "checkpoint_path": "weights: {file: PATH}",
}
"""Arguments by which timm and torchvision load weights, and how an entry says the same."""


@dataclass(frozen=True)
class InputSpec:
    """The images a network takes: float32 (N, channels, height, width), in [0, 1] before `(x - mean) / std`.

    Attributes:
        interpolation: How images are resized in evaluation.
        crop_pct: Share of the resized side that evaluation cuts out of the centre, as timm has it: the side is resized
            to `floor(side / crop_pct)` before; above 1 the image is smaller than what is cut out, and black around.
        crop_mode: What is resized to that size: the shorter side (`center`), both, whatever the aspect (`squash`), or
            the longer, with the mean colour around (`border`).
    """

    channels: Annotated[int, at_least(1, 1024)]
    height: Annotated[int, at_least(1, 8192)]
    width: Annotated[int, at_least(1, 8192)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop_pct: Annotated[float, above(0, 2)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            require(f"input.{name}", getattr(self, name), declared(InputSpec, name)[1][0], is_whole=True)
        require("input.crop_pct", self.crop_pct, declared(InputSpec, "crop_pct")[1][0])
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(f"input.{name}: got {len(values)} values for {self.channels} channels")
            if not all(map(math.isfinite, values)):
                raise UserError(f"input.{name}: got {_listed(values)}, expected finite numbers")
        if min(self.std) < 1 / 65536:  # of images of 16 bits that are brought to 0 to 65535
            raise UserError(f"input.std: got {min(self.std):g}, expected values above 0, at least 1 / 65536")
        self._check_scale()

    def _check_scale(self) -> None:
        """Refuses statistics of images that do not run from 0 to 1.

        Their mean lies in [0, 1]; their standard deviation is 0.5 at most, and 1 leaves them as they are. A deviation
        of 1 / 255 is no mistake: it brings [0, 1] to what a network takes that was trained on 0 to 255.
        """
        if max(*self.mean, *self.std) > 1.5:
            white = 255 if max(*self.mean, *self.std) <= 255 else 65535
            divided = ("mean", "std") if max(self.mean) > 1.5 else ("std",)
            given = " and ".join(f"input.{name} {_listed(getattr(self, name))}" for name in divided)
            typed = ", ".join(f"{name}: {_listed([v / white for v in getattr(self, name)])}" for name in divided)
            raise UserError(f"{given}: expected those of images that run from 0 to 1, not to {white}: give {typed}")
        if 0 < max(self.mean) < 0.01 and max(self.std) < 0.01:
            typed = ", ".join(f"{name}: {_listed([v * 255 for v in getattr(self, name)])}" for name in ("mean", "std"))
            raise UserError(
                f"input.mean {_listed(self.mean)} and input.std {_listed(self.std)}: divided by 255 once too often for "
                f"images that run from 0 to 1: give {typed}"
            )
        if min(self.mean) < 0 or max(self.mean) > 1:
            raise UserError(f"input.mean: got {_listed(self.mean)}, expected values from 0 to 1, as images have")

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
        license: Of the weights, as an identifier of the Hugging Face hub such as ``apache-2.0``; for cards.
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
    license: str = ""

    def __post_init__(self) -> None:
        if self.source in ("timm", "torchvision"):
            if not self.model:
                raise UserError(f"source {self.source} needs `model`, the name of the architecture")
            self._check_kwargs()
        else:
            module, _, factory = self.source.partition(":")
            if not (module and factory):
                raise UserError(f"source {self.source!r}, expected timm, torchvision or module:factory")
            if self.model:
                raise UserError(f"`model` belongs to timm and torchvision; give {self.source} its `kwargs`")
            if self.hub:
                raise UserError(f"{self.source} has no hub; give weights.file")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise UserError(f"classes given twice: {', '.join(repeated)}")

    def _check_kwargs(self) -> None:
        for key, advice in _WEIGHTS_AS_KWARGS.items():
            if self.kwargs.get(key):
                raise UserError(f"kwargs.{key}={shown(self.kwargs[key])}: weights are given apart; type {advice}")
        num_classes = self.kwargs.get("num_classes")
        if isinstance(num_classes, int) and num_classes < 0:
            raise UserError(f"kwargs.num_classes={num_classes}: expected 1 or more, or 0 for no classifier")

    @property
    def hub(self) -> str | bool | None:
        """Tag of the published weights, True for those of the default tag, or None."""
        return self.weights.hub if self.weights is not None else None


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
