"""The settings of cloning, as plain frozen dataclasses of basic types; a wrong value names its override."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.errors import UserError


def _among(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is unknown; allowed are {', '.join(allowed)}")


def _at_least(key: str, value: float, low: float) -> None:
    if not value >= low:
        raise UserError(f"{key}={value} is out of range; allowed: at least {low:g}")


def _share(key: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"{key}={value} is out of range; allowed: above 0, at most 1")


@dataclass(frozen=True)
class TaskSettings:
    """What the cloned network is to know, and who gives it.

    Attributes:
        classes: Names of the wanted classes, in the order of the outputs.
        cloned: If given, ``classes`` are those wanted of the target and these the ones wanted of the sources; else
            what the target lacks is cloned.
        target: The network that receives; ``None`` takes the one that knows the most of ``classes``.
        sources: The networks that may give; none named: the whole zoo. Of these the fewest that suffice are taken.
    """

    classes: tuple[str, ...] = ()
    cloned: tuple[str, ...] = ()
    target: str | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalisationSettings:
    """How the module is found inside a source.

    Attributes:
        name: ``lime`` (gates fitted to local linear models of the source), ``direct`` (to the source itself),
            ``taylor``, ``magnitude``, ``random`` (the control) or ``none`` (the whole source).
        keep: Share of the gates that stay open.
        num_images: Images of the cloned classes used, at most.
        num_neighbours: Neighbours of each image (``lime``, ``direct``); the image itself is the first.
        patch_grid: Patches per side of the image that a neighbour keeps or blackens.
        num_steps: Steps of the gates' optimisation (``lime``, ``direct``).
        batch_size: Neighbours per step.
        learning_rate: Of Adam on the gates.
        min_per_layer: Gates that stay open in every layer.
    """

    name: str = "lime"
    keep: float = 0.7
    num_images: int = 64
    num_neighbours: int = 48
    patch_grid: int = 7
    num_steps: int = 120
    batch_size: int = 64
    learning_rate: float = 0.05
    min_per_layer: int = 2

    def __post_init__(self) -> None:
        _among("localisation.name", self.name, ("lime", "direct", "taylor", "magnitude", "random", "none"))
        _share("localisation.keep", self.keep)
        _at_least("localisation.num_images", self.num_images, 1)
        _at_least("localisation.num_neighbours", self.num_neighbours, 2)
        _at_least("localisation.patch_grid", self.patch_grid, 1)
        _at_least("localisation.num_steps", self.num_steps, 1)
        _at_least("localisation.batch_size", self.batch_size, 1)
        _at_least("localisation.min_per_layer", self.min_per_layer, 1)
        if not self.learning_rate > 0:
            raise UserError(f"localisation.learning_rate={self.learning_rate} is out of range; allowed: above 0")


@dataclass(frozen=True)
class InsertionSettings:
    """Where the module is grafted onto the target.

    Positions are cuts of the target's chain: 0 is its input image, 1 the output of its stem, and so on up to the input
    of its head.

    Attributes:
        name: ``search`` (deep to shallow, the least loss after a short tuning), ``tolerance`` (the deepest position
            with a loss of at most ``tolerance`` times the least) or ``fixed``.
        position: For ``fixed``.
        tolerance: For ``tolerance``.
        num_epochs: Length of the short tuning at every position.
        learning_rate: Of the short tuning.
        batch_size: Of the short tuning.
        kernel_size: Of the adapters: 1, 3, or 0 for the better of both by cross-validation.
    """

    name: str = "search"
    position: int | None = None
    tolerance: float = 1.25
    num_epochs: int = 8
    learning_rate: float = 2e-3
    batch_size: int = 64
    kernel_size: int = 1

    def __post_init__(self) -> None:
        _among("insertion.name", self.name, ("search", "tolerance", "fixed"))
        if self.name == "fixed" and self.position is None:
            raise UserError("insertion=fixed needs a position: type insertion.position=0 (the input image) or deeper")
        if self.name != "fixed" and self.position is not None:
            raise UserError(f"insertion.position={self.position} needs insertion=fixed; given is insertion={self.name}")
        _at_least("insertion.tolerance", self.tolerance, 1)
        _at_least("insertion.num_epochs", self.num_epochs, 1)
        _at_least("insertion.batch_size", self.batch_size, 1)
        _among("insertion.kernel_size", str(self.kernel_size), ("0", "1", "3"))
        if not self.learning_rate > 0:
            raise UserError(f"insertion.learning_rate={self.learning_rate} is out of range; allowed: above 0")


@dataclass(frozen=True)
class CorrectionSettings:
    """The weak data of the tuning.

    Attributes:
        fraction: Share of the training images of each cloned class.
        exemplars: Images of each class that the target keeps; 0 is the strict mode without any of the target's data,
            in which nothing is trained: the closed-form initialisation is the result.
    """

    fraction: float = 0.3
    exemplars: int = 10

    def __post_init__(self) -> None:
        _share("correction.fraction", self.fraction)
        _at_least("correction.exemplars", self.exemplars, 0)
