"""A result as one uses it: images in, names and probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cloning.blueprint import CloningBlueprint
from cloning.measures import measure_costs
from cloning.network import ClonedNetwork
from datamodules.listing import image_files
from deploy.images import Images, preprocess
from tuning.network import TunableNetwork
from zoo.blueprint import Bundle
from zoo.chain import Costs
from zoo.chain.costs import count
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.interface import Interface
from zoo.registry import Zoo


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        kind: ``bundle``, ``recipe`` (without learnt weights) or ``clone`` (a packed file).
        path: As it was given.
        files: The bundle's directory, or the file.
        run_dir: The run that made it, where that is beside it.
        blueprint: Of any method.
        bundle: As it was read; None for the other kinds.
        zoo: What its networks were built with.
    """

    kind: str
    path: Path
    files: Path
    run_dir: Path | None
    blueprint: Any
    bundle: Bundle | None
    zoo: Zoo


@dataclass(frozen=True)
class Predictions(Sequence):
    """What a model says of images, in their order; an item is one image's probabilities by class, highest first.

    Attributes:
        images: What they were: the path of a file, else the number of the image.
        classes: Names by output.
        probabilities: float32 (n, C), on the CPU.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, float]:
        return dict(self.top(len(self.classes))[index])

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (dict(pairs) for pairs in self.top(len(self.classes)))

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable class of every image."""
        return tuple(self.classes[k] for k in self.probabilities.argmax(1).tolist())

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The k most probable classes of every image with their probabilities, highest first."""
        values, outputs = self.probabilities.topk(min(k, len(self.classes)), dim=1)
        names = [[self.classes[output] for output in row] for row in outputs.tolist()]
        return [list(zip(*row, strict=True)) for row in zip(names, values.tolist(), strict=True)]


class Model(nn.Module):
    """A composed, cloned or whole network with its names and its preprocessing; made by ``deploy.load``.

    ``model(x)`` gives the logits (N, C) of what ``preprocess`` gives.

    Attributes:
        network: The network itself, in eval mode.
        interface: What it takes and gives.
        origin: Where it comes from.
    """

    def __init__(self, network: TunableNetwork, interface: Interface, origin: Origin) -> None:
        super().__init__()
        self.network, self.interface, self.origin = network.eval().requires_grad_(False), interface, origin
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.interface.classes

    @property
    def input(self) -> InputSpec:
        """What the network takes."""
        return self.interface.input

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.head.weight.device

    @property
    def costs(self) -> Costs:
        """Parameters and MACs of one image, of everything that runs."""
        if isinstance(self.network, ClonedNetwork):
            return measure_costs(self.network)
        return count(self.network, self.input.example())

    def forward(self, x: Tensor) -> Tensor:
        """Maps preprocessed images (N, C, H, W) to logits (N, num_classes)."""
        self.require_weights()
        return self.network(x)

    def preprocess(self, images: Images) -> Tensor:
        """Images as the network takes them, (N, C, H, W) on its device; see ``deploy.images.preprocess``."""
        return preprocess(images, self.interface).to(self.device)

    @torch.no_grad()
    def predict(self, images: Images, *, batch_size: int = 32) -> Predictions:
        """Probabilities of images: one, a sequence, a batch (N, C, H, W), or a folder with all images below it.

        Args:
            images: See ``deploy.images.Images``.
            batch_size: Images that are in memory at once.

        Raises:
            UserError: An image that cannot be read, a folder without images, a recipe without learnt weights, logits
                that are not finite.
        """
        self.require_weights()
        items, names = _listed(images)
        parts = []
        for start in range(0, len(items), batch_size):
            parts.append(self.probabilities(self.preprocess(items[start : start + batch_size])))
        return Predictions(names, self.classes, torch.cat(parts))

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Of preprocessed images, float32 (N, C), on the CPU."""
        logits = self(x)
        if not logits.isfinite().all():
            raise UserError(f"{self.origin.path} gives logits that are not finite: look at the images, or tune it anew")
        return logits.float().softmax(1).cpu()

    def require_weights(self) -> None:
        """Refuses a recipe: its head was never learnt, and what it says of an image would be chance."""
        if self.origin.kind == "recipe":
            method = " method=cloning" if isinstance(self.origin.blueprint, CloningBlueprint) else ""
            raise UserError(
                f"{self.origin.files} is a recipe, without learnt weights: train it (python train.py{method} "
                f"blueprint={self.origin.files}, with the zoo=... and dataset=... that it is of), and give the "
                "directory of that run"
            )

    def describe(self) -> str:
        """A few lines: composition, classes, input, parameters, where its networks are from."""
        from deploy.describe import description

        return description(self)


def _listed(images: Images) -> tuple[Sequence[Any], tuple[str, ...]]:
    """Single images, and what to call them."""
    if isinstance(images, (str, Path)):
        path = Path(images)
        files = image_files(path) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no image that Pillow reads")
        return files, tuple(map(str, files))
    if isinstance(images, Tensor) and images.ndim == 4:
        return images, tuple(map(str, range(len(images))))
    if not isinstance(images, (list, tuple)):
        return [images], ("0",)
    return images, tuple(str(image) if isinstance(image, (str, Path)) else str(k) for k, image in enumerate(images))
