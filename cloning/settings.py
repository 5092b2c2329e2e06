"""The settings of cloning, as plain frozen dataclasses of basic types; a wrong value names its override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from zoo.errors import UserError
from zoo.limits import above, at_least, check, one_of


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
class Share:
    """How much of a source a module is.

    Attributes:
        keep: Share of the MACs behind gates that stays, at most; 1 for the whole source.
    """

    keep: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether it is the source itself."""
        return self.keep == 1.0

    def __str__(self) -> str:
        return f"keep {self.keep:g}"


WHOLE = Share()


FITTED = ("lime", "direct")
"""Localisers that fit gates: one whose logit is below 0 was closed for good, and stays so if there is room for it."""

_OF_FITS = ("num_neighbours", "patch_grid", "num_steps", "batch_size", "learning_rate", "contrast")


@dataclass(frozen=True)
class LocalisationSettings:
    """How the module is found inside a source.

    Attributes:
        name: ``lime`` (gates fitted to local linear models of the source), ``direct`` (to the source itself),
            ``taylor``, ``magnitude``, ``random`` (the control) or ``none`` (the whole source).
        keep: Share of the MACs behind gates that stays, where the gates' costs are known, else of the gates; ``None``
            lets the search choose, together with the position.
        num_images: Images of the cloned classes used, at most.
        num_neighbours: Neighbours of each image (``lime``, ``direct``); the image itself is the first.
        patch_grid: Patches per side of the image that a neighbour keeps or blackens.
        num_steps: Steps of the gates' optimisation (``lime``, ``direct``), for each share and to begin with; twice as
            many where there are images of the target's classes, and with them a head that is trained along.
        batch_size: Images per step: neighbours, of the cloned classes and of others.
        learning_rate: Of Adam on the gates.
        min_per_layer: Gates that stay open in every layer.
        contrast: Weight of images of other classes when features are left out until a module is local (``lime``,
            ``direct``); 0, and where there are no such images (strict mode): it hands on all of them.
    """

    name: Annotated[str, one_of("lime", "direct", "taylor", "magnitude", "random", "none")] = "lime"
    keep: Annotated[float | None, above(0, 1)] = None
    num_images: Annotated[int, at_least(1)] = 64
    num_neighbours: Annotated[int, at_least(2, 100_000)] = 16
    patch_grid: Annotated[int, at_least(1, 1024)] = 7
    num_steps: Annotated[int, at_least(1)] = 60
    batch_size: Annotated[int, at_least(2)] = 64
    learning_rate: Annotated[float, above(0, 1000)] = 0.1
    min_per_layer: Annotated[int, at_least(1)] = 2
    contrast: Annotated[float, at_least(0, 1000)] = 2.0

    def __post_init__(self) -> None:
        check(self, "localisation")

    @property
    def selects_features(self) -> bool:
        """Whether features are left out until a module is local, where images of other classes are there."""
        return self.contrast > 0 and self.name in FITTED

    @property
    def unread(self) -> frozenset[str]:
        """Settings that this localiser does not read."""
        whole = ("keep", "num_images", "min_per_layer") if self.name == "none" else ()
        return frozenset((*whole, *(() if self.name in FITTED else _OF_FITS)))


@dataclass(frozen=True)
class InsertionSettings:
    """Where the module is grafted onto the target.

    Positions are cuts of the target's chain: 0 is its input image, 1 the output of its stem, and so on up to the input
    of its head.

    Attributes:
        name: ``tolerance`` (what adds the fewest MACs with a loss of at most ``tolerance`` times the least),
            ``search`` (the least loss after a short tuning) or ``fixed``.
        position: For ``fixed``.
        tolerance: For ``tolerance`` and ``fixed``, among shares.
        accuracy_tolerance: For ``tolerance`` and ``fixed``: validation accuracy, mean of original and cloned classes,
            that the choice may lose against the least loss.
        inner_tolerance: For ``tolerance`` without a budget: how many times the least loss at the image a position
            behind it may have. Adapters are fitted to few images, and of many tries validation flatters the best.
        num_epochs: Length of the short tuning at every position.
        learning_rate: Of the short tuning.
        batch_size: Of the short tuning.
        kernel_size: Of the adapters: 1, 3, or ``auto`` for the better of both by cross-validation.
        num_head_cuts: At how many cuts of the target, spread evenly, F_c reads the mean features beside the last ones,
            where it is solved (from images of all classes, or from sums); 0: the last ones alone.
    """

    name: Annotated[str, one_of("search", "tolerance", "fixed")] = "tolerance"
    position: Annotated[int | None, at_least(0)] = None
    tolerance: Annotated[float, at_least(1, 1e6)] = 1.1
    accuracy_tolerance: Annotated[float, at_least(0, 1)] = 0.005
    inner_tolerance: Annotated[float, at_least(0, 1e6)] = 0.8
    num_epochs: Annotated[int, at_least(1)] = 4
    learning_rate: Annotated[float, above(0, 1000)] = 2e-3
    batch_size: Annotated[int, at_least(1)] = 64
    kernel_size: Annotated[int | str, one_of(1, 3, "auto")] = 1
    num_head_cuts: Annotated[int, at_least(0, 1000)] = 5

    def __post_init__(self) -> None:
        check(self, "insertion")
        if self.name == "fixed" and self.position is None:
            raise UserError("insertion=fixed needs a position: type insertion.position=0 (the input image) or deeper")
        if self.name != "fixed" and self.position is not None:
            raise UserError(f"insertion.position={self.position} needs insertion=fixed; given is insertion={self.name}")

    @property
    def unread(self) -> frozenset[str]:
        """Settings that this way to choose does not read."""
        of_tolerance = () if self.name != "search" else ("tolerance", "accuracy_tolerance")
        return frozenset((*of_tolerance, *(("inner_tolerance",) if self.name != "tolerance" else ())))


@dataclass(frozen=True)
class AddedBudget:
    """What the clones may add to the target, modules, adapters and their columns of the head together.

    Attributes:
        max_params: Parameters; ``None``: any number.
        max_macs: Multiply-accumulate operations per image; ``None``: any number.
    """

    max_params: int | None = None
    max_macs: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it limits nothing."""
        return self.max_params is None and self.max_macs is None

    @property
    def typed(self) -> str:
        """As overrides: ``budget.max_macs=9``."""
        limits = {"max_macs": self.max_macs, "max_params": self.max_params}
        return " ".join(f"budget.{key}={value}" for key, value in limits.items() if value is not None)

    def admits(self, num_params: int, macs: int) -> bool:
        """Whether so much is within both limits."""
        return (self.max_params is None or num_params <= self.max_params) and (
            self.max_macs is None or macs <= self.max_macs
        )


@dataclass(frozen=True)
class CorrectionSettings:
    """What is known of the classes when F_c is learnt.

    Attributes:
        name: ``exemplars`` (a few images) or ``statistics`` (second moments that the owners ship, and no image of the
            target's classes; see ``cloning.statistics``).
        fraction: Share of the training images of each cloned class.
        exemplars: Images of each class that the target keeps; 0 is the strict mode without any of the target's data,
            in which nothing is trained: the closed form, calibrated on validation images, is the result.
        num_copies: Distorted copies of every image that F_c is solved on, or that owners sum over: as the data is
            augmented, or turned, shifted and scaled a little where it is not (``affine``); few images of a class say
            little of how features vary.
        projection: For ``statistics``: rows of the random projection of each network's features, at most.
        ridge: For ``statistics``: penalty of the regression, relative to the variances of the features; ``None``
            lets generalised cross-validation choose.
    """

    name: Annotated[str, one_of("exemplars", "statistics")] = "exemplars"
    fraction: Annotated[float, above(0, 1)] = 0.3
    exemplars: Annotated[int, at_least(0)] = 10
    num_copies: Annotated[int, at_least(0, 100)] = 4
    projection: Annotated[int, at_least(1, 8192)] = 64
    ridge: Annotated[float | None, at_least(1e-9, 1e6)] = None

    def __post_init__(self) -> None:
        check(self, "correction")
        if self.name == "statistics" and self.exemplars:
            raise UserError(
                f"correction.exemplars={self.exemplars} needs correction=exemplars: correction=statistics sees no "
                "image of the target's classes; leave it out"
            )

    @property
    def unread(self) -> frozenset[str]:
        """Settings that are of the other kind."""
        return frozenset(("projection", "ridge") if self.name == "exemplars" else ())


@dataclass(frozen=True)
class CloningSettings:
    """Everything the search depends on beside zoo, data and seed."""

    task: TaskSettings
    localisation: LocalisationSettings = field(default_factory=LocalisationSettings)
    insertion: InsertionSettings = field(default_factory=InsertionSettings)
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    budget: AddedBudget = field(default_factory=AddedBudget)
