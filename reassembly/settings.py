"""The settings of the search that belong to no single algorithm, as plain frozen dataclasses; checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from reassembly.assembly import Budget
from reassembly.partition import PartitionSettings
from reassembly.proxies import ProxySettings
from reassembly.similarity import SIMILARITIES
from zoo.blueprint import AdapterSpec
from zoo.limits import above, at_least, check, one_of
from zoo.storage.records import from_plain


@dataclass(frozen=True)
class SimilaritySettings:
    """How alike two nodes are.

    Attributes:
        measure: ``linear_cka``, ``rbf_cka``, ``regression`` or ``svcca``.
        num_probe_images: Images of the training split that run through every network, once.
        batch_size: Of the CKA estimators; ``None`` takes all images at once.
        bandwidth: Of ``rbf_cka``, as a share of the median distance.
        ridge: Of ``regression``, relative; above 0 its R2 is leave-one-out, 0 is least squares in-sample.
        explained_variance: Of the components that ``svcca`` compares.
    """

    measure: Annotated[str, one_of(*SIMILARITIES)] = "linear_cka"
    num_probe_images: Annotated[int, at_least(4)] = 512
    batch_size: Annotated[int | None, at_least(4)] = 256
    bandwidth: Annotated[float, at_least(0.001, 1000)] = 0.5
    ridge: Annotated[float, at_least(0, 1e6)] = 0.1
    explained_variance: Annotated[float, above(0, 1)] = 0.99

    def __post_init__(self) -> None:
        check(self, "similarity")

    def options(self) -> dict[str, float | int | None]:
        """The keyword arguments of the measure: those of the others change nothing."""
        names = {
            "linear_cka": ("batch_size",),
            "rbf_cka": ("batch_size", "bandwidth"),
            "regression": ("ridge",),
            "svcca": ("explained_variance",),
        }
        return {name: getattr(self, name) for name in names[self.measure]}


@dataclass(frozen=True)
class AdapterSettings:
    """The adapters of the composed network.

    Attributes:
        kind: ``linear`` (a convolution) or ``paper`` (norm, 1x1 convolution, LeakyReLU).
        kernel_size: 1, 3 or ``auto`` (the better by cross-validation; the search then counts the cost of 3).
        initialisation: ``closed_form`` (ridge regression onto what a block received at home) or ``random``.
    """

    kind: str = "linear"
    kernel_size: Annotated[int | str, one_of(1, 3, "auto")] = 3
    initialisation: str = "closed_form"

    def __post_init__(self) -> None:
        check(self, "adapter")
        self.spec()

    def spec(self) -> AdapterSpec:
        """The blueprint's form of these settings.

        Raises:
            UserError: An unknown kind, kernel size or initialisation.
        """
        values = {"kind": self.kind, "kernel_size": self.kernel_size, "initialisation": self.initialisation}
        return from_plain(AdapterSpec, values, "adapter")


@dataclass(frozen=True)
class SearchSettings:
    """Everything the search depends on beside zoo, data and seed.

    Attributes:
        finalists: Candidates that short tuning decides between; 1 takes the best score.
    """

    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    budget: Budget = field(default_factory=Budget)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    finalists: Annotated[int, at_least(1)] = 1

    def __post_init__(self) -> None:
        check(self)
