"""The settings of the search that belong to no single algorithm, as plain frozen dataclasses; checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field

from reassembly.assembly import Budget
from reassembly.partition import PartitionSettings
from reassembly.proxies import ProxySettings
from reassembly.similarity import SIMILARITIES
from zoo.blueprint import AdapterSpec
from zoo.errors import UserError
from zoo.records import from_plain


@dataclass(frozen=True)
class SimilaritySettings:
    """How alike two nodes are.

    Attributes:
        measure: ``linear_cka``, ``rbf_cka``, ``regression`` or ``svcca``.
        num_probe_images: images of the training split that run through every network, once.
    """

    measure: str = "linear_cka"
    num_probe_images: int = 512

    def __post_init__(self) -> None:
        if self.measure not in SIMILARITIES:
            raise UserError(f"similarity.measure={self.measure} is unknown; allowed are {', '.join(SIMILARITIES)}")
        if self.num_probe_images < 4:
            raise UserError(f"similarity.num_probe_images={self.num_probe_images} is too few; type at least 4")


@dataclass(frozen=True)
class AdapterSettings:
    """The adapters of the composed network.

    Attributes:
        kind: ``linear`` (a convolution) or ``paper`` (norm, 1x1 convolution, LeakyReLU).
        kernel_size: 1, 3 or ``auto`` (the better by cross-validation; the search then counts the cost of 3).
        initialisation: ``closed_form`` (ridge regression onto what a block received at home) or ``random``.
    """

    kind: str = "linear"
    kernel_size: int | str = 3
    initialisation: str = "closed_form"

    def __post_init__(self) -> None:
        self.spec()

    def spec(self) -> AdapterSpec:
        """Returns the blueprint's form of these settings.

        Raises:
            UserError: an unknown kind, kernel size or initialisation.
        """
        values = {"kind": self.kind, "kernel_size": self.kernel_size, "initialisation": self.initialisation}
        return from_plain(AdapterSpec, values, "adapter")


@dataclass(frozen=True)
class SearchSettings:
    """Everything the search depends on beside zoo, data and seed.

    Attributes:
        finalists: candidates that short tuning decides between; 1 takes the best score.
    """

    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    budget: Budget = field(default_factory=Budget)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    finalists: int = 1
