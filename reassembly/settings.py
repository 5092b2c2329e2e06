"""The settings of the search that belong to no single algorithm, as plain frozen dataclasses; checked when made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

from reassembly.proxies import PROXIES
from reassembly.similarity import SIMILARITIES
from tuning.settings import MODES
from zoo.blueprint import AdapterSpec
from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, above, at_least, check, one_of, require
from zoo.storage.records import from_plain

MAX_PERMUTED_BLOCKS = 8


@dataclass(frozen=True)
class SimilaritySettings:
    """How alike two nodes are.

    Attributes:
        measure: ``linear_cka``, ``rbf_cka``, ``regression``, ``svcca`` or ``probe_kl``.
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
            "probe_kl": (),
        }
        return {name: getattr(self, name) for name in names[self.measure]}


@dataclass(frozen=True)
class PartitionSettings:
    """How networks are partitioned.

    Attributes:
        num_blocks: K, blocks of every network and number of equivalence sets.
        mode: ``stage``: block k of every network is in set k, so that one block from every set is one for every stage;
            ``permutation``: every network uses every set once, in any order; ``nearest`` (the article's): every block
            is in the set of its nearest centre, so that a set may hold several blocks of a network and none of another;
            ``even`` (baseline): blocks of equal length, in stages.
        method: ``certified`` (coordinate ascent and a bound) or ``published`` (random swaps of borders, for comparison,
            in the modes ``stage`` and ``nearest``).
        size_slack: eps of the size limit max(floor((1 + eps) L / K), ceil(L / K)) nodes.
        num_starts: Starts of the coordinate ascent, the even splits first and random ones after.
        max_bound_steps: Subgradient steps spent on the upper bound and the proof; 0 reports the trivial bound.
        time_limit: Seconds after which starts and bound end early; what is found then depends on the machine. ``None``
            ends by steps alone.
    """

    num_blocks: Annotated[int, at_least(1)] = 4
    mode: Annotated[str, one_of("stage", "permutation", "nearest", "even")] = "stage"
    method: Annotated[str, one_of("certified", "published")] = "certified"
    size_slack: Annotated[float, at_least(0, 1000)] = 0.5
    num_starts: Annotated[int, at_least(1)] = 40
    max_bound_steps: Annotated[int, at_least(0)] = 3000
    time_limit: Annotated[float | None, above(0, 1e6)] = None

    def __post_init__(self) -> None:
        check(self, "partition")
        if self.method == "published" and self.mode not in ("stage", "nearest"):
            raise UserError(
                f"partition.method=published with partition.mode={self.mode}: it is known for partition.mode=stage and "
                "partition.mode=nearest; type one of them, or partition.method=certified"
            )
        if self.mode == "permutation" and self.num_blocks > MAX_PERMUTED_BLOCKS:
            raise UserError(
                f"partition.mode=permutation with partition.num_blocks={self.num_blocks} is not allowed: its work "
                f"grows as 2^K, type partition.num_blocks={MAX_PERMUTED_BLOCKS} or less, or partition.mode=stage"
            )


@dataclass(frozen=True)
class Budget:
    """Limits on a composition's parameters, MACs and time, neck and head included; None leaves a side open.

    Attributes:
        max_latency_ms: On the present device, predicted from the times of its parts (``reassembly.latency``), which are
            measured where there is this limit.
        latency_batch_size: Images at once in that measurement.
        pareto: Also give every composition within the limits that no other beats in its costs and score at once.

    Raises:
        UserError: A limit that is negative or no integer, or a minimum above its maximum.
    """

    min_params: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    max_params: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    min_macs: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    max_macs: Annotated[int | None, at_least(0, MAX_INTEGER)] = None
    max_latency_ms: Annotated[float | None, above(0, 1e9)] = None
    latency_batch_size: Annotated[int, at_least(1)] = 1
    pareto: bool = False

    def __post_init__(self) -> None:
        check(self, "budget")
        for unit in ("params", "macs"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise UserError(
                    f"budget.min_{unit}={low} is above budget.max_{unit}={high}; allowed is a minimum <= the maximum; "
                    f"type e.g. budget.min_{unit}={high} budget.max_{unit}={low}"
                )

    def limits(self) -> dict[str, int | float]:
        """The limits that are set, by name."""
        names = (f.name for f in fields(self) if f.name.startswith(("min_", "max_")))
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The least and the most (parameters, MACs, nanoseconds) that fit, as int64 holds them."""
        limits = {name: in_cost(name, value) for name, value in self.limits().items()}
        low, high = (tuple(limits.get(f"{side}_{unit}") for unit in UNITS) for side in ("min", "max"))
        return _filled(low, 0), _filled(high, MAX_INTEGER)

    def admits(self, num_params: int, macs: int, latency_ns: int = 0) -> bool:
        """Whether a composition of these costs fits."""
        low, high = self.bounds()
        return all(low[i] <= cost <= high[i] for i, cost in enumerate((num_params, macs, latency_ns)))

    def without(self, names: Sequence[str]) -> Budget:
        """The same budget with some limits lifted."""
        return replace(self, pareto=False, **dict.fromkeys(names))

    def __str__(self) -> str:
        return " ".join(f"budget.{name}={value}" for name, value in self.limits().items()) or "an open budget"


UNITS = ("params", "macs", "latency_ms")
"""In which limits are given, in the order of the costs."""


def unit_of(name: str) -> int:
    """Which cost a limit is on, by its name."""
    return next(index for index, unit in enumerate(UNITS) if name.endswith(unit))


def in_cost(name: str, value: float) -> int:
    """The value of a limit in the unit of its cost: nanoseconds for milliseconds."""
    return round(1e6 * value) if name.endswith("_ms") else int(value)


def in_limit(unit: int, cost: int) -> int | float:
    """The smallest value to type for a limit that admits a cost: milliseconds, of four digits, for nanoseconds."""
    return math.ceil(cost / 100) / 10_000 if UNITS[unit].endswith("_ms") else cost


def _filled(limits: Sequence[int | None], open_end: int) -> tuple[int, ...]:
    return tuple(open_end if limit is None else limit for limit in limits)


@dataclass(frozen=True)
class ProxySettings:
    """How candidates are scored.

    Attributes:
        name: The proxy that ranks them.
        also: Further proxies to report beside it.
        num_draws: Draws of the random adapters over which scores are averaged.
        adapters: ``random`` (scaled to the moments that the next block knows from home) or ``closed_form``.
        num_images: Training images to score on, at most; None takes all.
        batch_size: Images per forward pass; NASWOT sees the first batch only.
        max_scored: Assemblies to score at most, those that the 0-1 programme predicts to be best; None scores all.
        min_difference: Of these, any two differ in so many blocks at least.
        max_seams_per_block: Seams behind every block that are scored for that prediction, those to the blocks whose
            input at home is most like what it gives, by the similarity; None scores all, N^2 (K - 1) runs of a block.
        max_redrawn: Assemblies that get more than one draw at most, the best by the first draw; None redraws all, which
            takes ``num_draws`` times as long.

    Raises:
        UserError: A value that is not allowed.
    """

    name: str = "ridge"
    also: tuple[str, ...] = ()
    num_draws: Annotated[int, at_least(1)] = 3
    adapters: Annotated[str, one_of("random", "closed_form")] = "random"
    num_images: Annotated[int | None, at_least(2)] = 300
    batch_size: Annotated[int, at_least(2)] = 100
    max_scored: Annotated[int | None, at_least(1)] = 1000
    min_difference: Annotated[int, at_least(1)] = 1
    max_seams_per_block: Annotated[int | None, at_least(1)] = None
    max_redrawn: Annotated[int | None, at_least(1)] = 24

    def __post_init__(self) -> None:
        check(self, "proxy")
        for key, names in (("name", (self.name,)), ("also", self.also)):
            for name in names:
                require(f"proxy.{key}", name, one_of(*PROXIES))


@dataclass(frozen=True)
class CompositionSettings:
    """Which blocks a composition may take.

    Attributes:
        required: Networks that give at least one block.
        forbidden: Networks that give none.
        max_blocks_per_network: At most so many blocks come from one network.
        min_blocks: A composition has at least so many blocks,
        max_blocks: and at most so many: it ends early, as a truncated network does.

    Raises:
        UserError: A value that is not allowed, or two that contradict each other.
    """

    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    max_blocks_per_network: Annotated[int | None, at_least(1)] = None
    min_blocks: Annotated[int, at_least(1)] = 1
    max_blocks: Annotated[int | None, at_least(1)] = None

    def __post_init__(self) -> None:
        check(self, "composition")
        if both := [name for name in self.required if name in self.forbidden]:
            raise UserError(
                f"composition.required and composition.forbidden both name {both[0]!r}: take it out of one of them"
            )
        if self.max_blocks is not None and self.min_blocks > self.max_blocks:
            raise UserError(
                f"composition.min_blocks={self.min_blocks} is above composition.max_blocks={self.max_blocks}; allowed "
                f"is a minimum <= the maximum; type e.g. composition.min_blocks={self.max_blocks}"
            )


KINDS = ("network", "truncated", "assembly")


@dataclass(frozen=True)
class SelectionSettings:
    """Which candidates go on to short tuning, and how it decides between them (``finalists`` says how many).

    Attributes:
        seats: Filled one after the other by the best candidate that has none yet: by the proxy of that name, or of the
            kind of that name (``network``, ``truncated``, ``assembly``) by the search's proxy. Where there are more
            finalists than seats, the search's proxy fills the rest. A seat of a kind of which nothing fits goes to the
            first score that has a seat, or to the search's proxy.
        min_difference: Any two finalists take blocks of different networks in so many stages at least.
        num_epochs: Of every rung; the better half of each goes on to the next, the best whole or truncated network
            with it.

    Raises:
        UserError: A value that is not allowed.
    """

    seats: tuple[str, ...] = (
        *("ridge_cuts", "ridge", "truncated", "network"),
        *("ridge_cuts", "ridge", "ridge_cuts", "ridge", "ridge_cuts"),
    )
    min_difference: Annotated[int, at_least(0)] = 1
    num_epochs: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        check(self, "selection")
        for seat in self.seats:
            require("selection.seats", seat, one_of(*KINDS, *PROXIES), default="[ridge_cuts,ridge,truncated,network]")
        if not self.num_epochs:
            raise UserError("selection.num_epochs=[] holds no number of epochs; type selection.num_epochs=[1,2,4]")
        for number in self.num_epochs:
            require("selection.num_epochs", number, at_least(1), default="[1,2,4]")

    def proxies(self, num_finalists: int) -> tuple[str, ...]:
        """The proxies that so many finalists are chosen by, beside the search's own."""
        seats = self.seats[:num_finalists] if num_finalists > 1 else ()
        return tuple(dict.fromkeys(seat for seat in seats if seat not in KINDS))


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

    def own_spec(self) -> AdapterSpec:
        """That of the adapters that a network gets at its own cuts: the identity at first."""
        kernel_size = 3 if self.kind == "linear" and self.kernel_size != 1 else 1
        return AdapterSpec("linear", kernel_size, "identity")


@dataclass(frozen=True)
class HeadSettings:
    """What the new head reads.

    Attributes:
        inputs: ``last`` (the features behind the last block), ``all_cuts`` (those behind every block), or ``auto``:
            where the wider head, too, fits the budget, tuning takes it if leave-one-out says that it is better.
    """

    inputs: Annotated[str, one_of("last", "all_cuts", "auto")] = "last"

    def __post_init__(self) -> None:
        check(self, "head")


@dataclass(frozen=True)
class SearchSettings:
    """Everything the search depends on beside zoo, data and seed.

    Attributes:
        tuning_mode: Of the tuning that follows; for ``freeze`` networks with adapters of their own are candidates.
        finalists: Candidates that short tuning decides between; 1 takes the best score.
        selection: How they are chosen and decided between.
    """

    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    budget: Budget = field(default_factory=Budget)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    composition: CompositionSettings = field(default_factory=CompositionSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    finalists: Annotated[int, at_least(1)] = 1
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    tuning_mode: Annotated[str, one_of(*MODES)] = "full"

    def __post_init__(self) -> None:
        check(self)
