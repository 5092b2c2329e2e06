"""The schema of the configuration: every key of ours with its type; Hydra checks each override against it.

The settings themselves are the frozen dataclasses of the packages that use them, checked further by their constructors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cloning.settings import CorrectionSettings, InsertionSettings, LocalisationSettings, TaskSettings
from reassembly.settings import (
    AdapterSettings,
    Budget,
    CompositionSettings,
    HeadSettings,
    PartitionSettings,
    ProxySettings,
    SelectionSettings,
    SimilaritySettings,
)
from tuning.settings import OptimizerSettings, ScheduleSettings, TrainerSettings, TuningSettings
from zoo.errors import UserError
from zoo.executors.settings import ExecutorSettings
from zoo.limits import SEED, at_least, check, one_of


@dataclass(frozen=True)
class MethodSettings:
    """What is searched and tuned.

    Attributes:
        name: ``reassembly`` (compositions of the whole zoo), ``baseline`` (one whole network) or ``cloning`` (parts of
            some networks grafted onto another).
        network: The baseline's network by name; ``None`` takes the first by ``select``.
        select: What ranks the baseline's networks: a scorer, or ``home_accuracy`` (what the zoo states); ``None`` takes
            the proxy.
    """

    name: Annotated[str, one_of("reassembly", "baseline", "cloning")] = "reassembly"
    network: str | None = None
    select: Annotated[str | None, one_of("ridge", "logme", "leep", "nleep", "home_accuracy")] = None

    def __post_init__(self) -> None:
        check(self, "method")
        if self.select is not None and self.name != "baseline":
            raise UserError(f"method.select={self.select} needs method=baseline, not method={self.name}")
        if self.select is not None and self.network is not None:
            raise UserError(
                f"method.select={self.select} chooses a network, which method.network={self.network} names: leave one "
                "of them out"
            )
        if self.network is not None and self.name != "baseline":
            raise UserError(f"method.network={self.network} needs method=baseline, not method={self.name}")


@dataclass(frozen=True)
class CacheSettings:
    """Where stage results are kept.

    Attributes:
        root: Directory of the entries.
        rebuild_damaged: Compute a damaged entry anew instead of refusing it.
    """

    root: str = "runs/cache"
    rebuild_damaged: bool = False


@dataclass(frozen=True)
class LoggerSettings:
    """Where metrics go beside our own files.

    Attributes:
        name: ``csv`` (our own files only), ``wandb`` or ``wandb_offline``.
        project: W&B project.
        entity: W&B user or team; ``None``: the one who is logged in.
        group: What belongs together; ``None``: the jobs of a sweep, by its name.
        run_name: Of the W&B run; ``None``: that of the job's directory.
        tags: Words to find it by.
        notes: A text about it.
    """

    name: Annotated[str, one_of("csv", "wandb", "wandb_offline")] = "csv"
    project: str = "huozi"
    entity: str | None = None
    group: str | None = None
    run_name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None

    def __post_init__(self) -> None:
        check(self, "logger")


@dataclass(frozen=True)
class ParentSettings:
    """What a network is composed and tuned on before the job's own data, see ``launch.parent``.

    Attributes:
        dataset: The data set; ``None``: there is no such training.
        tuning: What differs from the job's own ``tuning``; likewise the two others.
        optimizer: See ``tuning``.
        schedule: See ``tuning``.
    """

    dataset: dict[str, Any] | None = None
    tuning: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """The whole configuration of a job; ``conf/base.yaml`` says what each key is for."""

    method: MethodSettings = field(default_factory=MethodSettings)
    zoo: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    budget: Budget = field(default_factory=Budget)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    composition: CompositionSettings = field(default_factory=CompositionSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    localisation: LocalisationSettings = field(default_factory=LocalisationSettings)
    insertion: InsertionSettings = field(default_factory=InsertionSettings)
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    device: str = "cpu"
    precision: Annotated[str, one_of("float32", "bfloat16")] = "float32"
    seed: Annotated[int, SEED] = 0
    finalists: Annotated[int, at_least(1)] = 9
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    output_dir: str | None = None
    runs_dir: str = "runs"
    resume: str | None = None
    blueprint: str | None = None
    parent: ParentSettings = field(default_factory=ParentSettings)
    skip_completed: bool = False
    complete_bundle: bool = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def unread(self) -> frozenset[str]:
        """Keys that the method does not read."""
        return _OF_REASSEMBLY if self.method.name == "cloning" else _OF_CLONING


_OF_REASSEMBLY = frozenset(
    {"similarity", "partition", "proxy", "adapter", "composition", "head", "finalists", "selection", "executor"}
)
_OF_CLONING = frozenset({"task", "localisation", "insertion", "correction"})


def register() -> None:
    """Makes the schema known to Hydra as ``schema``, the first entry of ``conf/base.yaml``'s defaults."""
    store = ConfigStore.instance()
    store.store(name="schema", node=structured())
    # For ``--help`` Hydra copies the whole store for each of its groups, which takes seconds; what it loads out of the
    # store it copies once more, so that one store can serve all.
    store.__deepcopy__ = lambda memo: store


def structured() -> DictConfig:
    """Returns the schema with its defaults, as OmegaConf checks values against it."""
    config = _writable(OmegaConf.structured(Config))
    OmegaConf.set_struct(config.dataset, False)  # takes what its data module takes, which ``launch.checks`` knows
    return config


def keys() -> list[str]:
    """Returns the dotted keys of the schema."""

    def walk(node: DictConfig, prefix: str) -> list[str]:
        found: list[str] = []
        for key in node:
            child = node._get_node(key)
            found.append(f"{prefix}{key}")
            if isinstance(child, DictConfig) and not child._is_none():
                found += walk(child, f"{prefix}{key}.")
        return found

    return walk(structured(), "")


def _writable(node: DictConfig) -> DictConfig:
    """Lets the composition set the keys: OmegaConf makes the node of a frozen dataclass read-only."""
    OmegaConf.set_readonly(node, None)
    if "kwargs" in node:
        OmegaConf.set_struct(node._get_node("kwargs"), False)  # its keys are those of the optimiser, schedule
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            _writable(child)
    return node
