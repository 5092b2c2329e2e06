"""One split of a data set beside a zoo, with every setting that a figure depends on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from datamodules import ImageDataModule
from launch.checks import check_dataset, configured
from launch.command_line import readable
from launch.errors import CONF, explain
from launch.inputs import read_data
from launch.machine import check_machine
from launch.schema import Config, keys, register
from reassembly.assembly import Candidate
from reassembly.pipeline import Search
from reassembly.result import SearchResult
from reassembly.settings import Budget, CompositionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.chain_cache import ChainCache
from zoo.description import ChainDescription, identity
from zoo.errors import UserError
from zoo.limits import shown
from zoo.registry import Zoo, read_zoo
from zoo.storage.records import neighbours
from zoo.storage.store import Store


@dataclass(frozen=True)
class Question:
    """What is compared, as plain data that travels to other processes.

    Attributes:
        zoo: Its name, or the path of a YAML file.
        words: Overrides as train.py takes them, ``dataset=NAME`` among them; the seed is that of the split.
        without: Networks of the zoo that are left out.
        cache: Directory of stage results and rows.
        num_tuned: Networks of each rival, the best by a closed form, that are tuned; validation decides between them.
    """

    zoo: str
    words: tuple[str, ...]
    without: tuple[str, ...] = ()
    cache: str = "runs/cache"
    num_tuned: int = 3


@dataclass(frozen=True)
class Task:
    """One split: zoo, data, settings.

    Attributes:
        zoo: What there is to compose.
        data: Of this split.
        config: All settings; ``config.tuning`` without its mode.
        store: Of stage results and rows.
        num_tuned: Networks of each rival that are tuned.
    """

    zoo: Zoo
    data: ImageDataModule
    config: Config
    store: Store
    num_tuned: int = 3

    @property
    def seed(self) -> int:
        """Of the split, the search and the training."""
        return self.config.seed

    @cached_property
    def settings(self) -> SearchSettings:
        """Of the search, as search.py would have them; its budget is open."""
        shared = {field.name for field in fields(SearchSettings)} & {field.name for field in fields(Config)}
        return SearchSettings(**{**{name: getattr(self.config, name) for name in shared}, "budget": Budget()})

    @cached_property
    def search(self) -> Search:
        """The search of these settings, which also builds networks."""
        return Search(self.zoo, self.data, self.settings, store=self.store, seed=self.seed)

    @property
    def chains(self) -> ChainCache:
        """Of the zoo."""
        return self.search.chains

    @cached_property
    def picks(self) -> dict[Any, Any]:
        """What was picked so far, by budget and mode."""
        return {}

    @cached_property
    def catalogue(self) -> SearchResult:
        """Partition, descriptions and every composition with its costs, unscored and under no budget."""
        return self._listed(self.settings.similarity)

    def similarity(self, measure: str) -> Tensor:
        """Of all nodes by another measure than the settings', in the order of the networks and their nodes."""
        return self._listed(replace(self.settings.similarity, measure=measure)).similarity

    def _listed(self, similarity: SimilaritySettings) -> SearchResult:
        proxy, composition = ProxySettings(name="params"), CompositionSettings()
        settings = replace(self.settings, similarity=similarity, proxy=proxy, composition=composition, finalists=1)
        search = Search(self.zoo, self.data, settings, store=self.store, seed=self.seed)
        search.chains = self.chains
        return search.run()

    @property
    def descriptions(self) -> Mapping[str, ChainDescription]:
        """Of the zoo's networks."""
        return self.catalogue.descriptions

    @cached_property
    def assemblies(self) -> list[Candidate]:
        """All compositions of blocks of several networks."""
        candidates = [entry.candidate for entry in self.catalogue.candidates]
        found = [candidate for candidate in candidates if candidate.kind == "assembly"]
        return sorted(found, key=lambda candidate: candidate.composition)

    def repeated(self, number: int) -> Task:
        """The same split with another order of its images and other distortions; 0 is this one."""
        data = copy.copy(self.data)
        data.seed += 1_000_003 * number
        other = replace(self, data=data)
        vars(other).update(search=self.search, catalogue=self.catalogue)  # which see the split alone
        return other

    def key(self, names: Sequence[str]) -> dict[str, Any]:
        """What a figure of these networks depends on, beside recipe and mode, as plain data."""
        config = self.config
        return {
            "networks": {name: identity(self.zoo[name]) for name in names},
            "data": [self.data.digest, self.data.seed, self.data.batch_size, str(self.data.augmentation)],
            "probe images": self.settings.similarity.num_probe_images,
            "settings": [config.tuning, config.optimizer, config.schedule, config.trainer, self.seed],
        }


UNREAD: Mapping[str, str] = {
    "seed": "splits have the seeds 0, 1, ...: type --splits N",
    "dataset=": "the data set is given by its name alone",
    "zoo": "the zoo is given by its name or file alone",
    "experiment": "type those of its settings that have one",
    "tuning.mode": "type --modes or --mode where there are several",
    **dict.fromkeys(("tuning=probe", "tuning=freeze", "tuning=full"), "type --modes or --mode where there are several"),
    "tuning.teacher": "leave it out",
    "method": "leave it out",
    "budget": "type --limits N, or leave it out",
    "executor": "leave it out",
    "device": "searches of a comparison run on the CPU; trainer.accelerator=gpu tunes on a GPU",
    "precision": "type trainer.precision=...",
    "logger": "leave it out",
    "cache.root": "type --cache PATH",
    "output_dir": "type --output PATH",
    "runs_dir": "type --output PATH",
    "resume": "the same command goes on where it was stopped",
    "skip_completed": "the same command goes on where it was stopped",
    "blueprint": "leave it out",
    "parent": "leave it out",
    "complete_bundle": "leave it out",
}
"""What overrides of train.py do nothing in a comparison, and what does; a name with ``=`` is an option's."""


def require_effect(words: Sequence[str], unread: Mapping[str, str] = UNREAD) -> None:
    """Refuses overrides that nothing would read: no figure is to be of settings that were not asked for.

    Raises:
        UserError: The first of them, and what to type.
    """
    for word in words:
        bare = word.lstrip("+~")
        key, sign, _ = bare.partition("=")
        for name, advice in unread.items():
            if name in (bare, f"{key}{sign}", key) or key.startswith((f"{name}.", f"{name}@")):
                raise UserError(f"{shown(word)} has no effect here: {advice}")


def open_task(question: Question, seed: int) -> Task:
    """Reads zoo and data of a split.

    Raises:
        UserError: What cannot be read, or an override that is none.
    """
    words = [*readable(question.words), f"seed={seed}"]
    register()
    try:
        is_running = GlobalHydra.instance().is_initialized()
        with nullcontext() if is_running else initialize_config_dir(str(CONF), version_base="1.3"):
            config = configured(compose("train", words), words, "train")
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, keys())) from error
    check_dataset(config.dataset)
    check_machine(config)
    if config.trainer.strategy != "auto":
        raise UserError(
            f"trainer.strategy={config.trainer.strategy}: a network is tuned by one process here; leave it out"
        )
    zoo = read_zoo(question.zoo)
    for name in question.without:
        if name not in zoo:
            raise UserError(f"--without {name}: zoo {zoo.name} has no such network: {neighbours(name, zoo)}")
    left = [entry for name, entry in zoo.items() if name not in question.without]
    if not left:
        raise UserError(f"--without {' '.join(question.without)}: zoo {zoo.name} has no other: name fewer")
    return Task(
        Zoo(zoo.name, left),
        read_data(config),
        config,
        Store(question.cache, rebuild_damaged=config.cache.rebuild_damaged),
        question.num_tuned,
    )
