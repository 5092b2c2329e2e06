"""The search, from a zoo to a blueprint: features -> similarity -> partition -> assembly -> pick.

Every stage is stored by content, so an identical search runs no network and a changed setting redoes only what depends
on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise

from torch import Tensor

from datamodules import ImageDataModule
from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.candidates import Question, ask, content_digest, list_admitted, promising, undominated_candidates
from reassembly.costing import Costing
from reassembly.enumeration import PathCosts
from reassembly.features import NetworkFeatures, extract_features, feature_indices, feature_inputs, require_chains
from reassembly.finalists import decided
from reassembly.home_accuracy import most_accurate
from reassembly.latency import LatencyCheck, LatencyTable, measure_parts, timed_candidates
from reassembly.ledger import ScoreLedger
from reassembly.network import AssembledNetwork, assemble
from reassembly.partition import Partition, find_partition
from reassembly.prefix_tree import ScoringData
from reassembly.probe_images import ProbeImages
from reassembly.programme.highs import solve_milp
from reassembly.proxies import Proxy, find_proxy
from reassembly.result import SearchResult
from reassembly.scoring import Scorer
from reassembly.seams import SeamRequest, seam_values, with_predictions
from reassembly.settings import ProxySettings, SearchSettings
from reassembly.shortlist import seam_shortlist
from reassembly.similarity import similarity_matrix
from reassembly.stitch import Stitches
from reassembly.telling import (
    tell_latency,
    tell_over_budget,
    tell_partition,
    tell_pick,
    tell_scored,
    tell_whole_networks,
)
from zoo.blueprint import AdapterSpec, HeadSpec, Provenance, ReassemblyBlueprint
from zoo.chain.batches import Rows
from zoo.chain_cache import ChainCache
from zoo.checkpoints import shorten
from zoo.description import ChainDescription, identity
from zoo.devices import CPU, Placement
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.progress import progress
from zoo.registry import Zoo, require_files
from zoo.storage.records import from_plain, to_plain
from zoo.storage.sources import module_digest
from zoo.storage.stages import StageTimer
from zoo.storage.store import StageResult, Store, content_key

log = logging.getLogger(__name__)

Tune = Callable[[ReassemblyBlueprint, int], float]
"""Tunes the network of a blueprint for some epochs and returns its accuracy on the validation split."""


class Search:
    """One search over a zoo for a task; ``run`` is the whole of it. What it computes is on the device of its inputs.

    Args:
        zoo: Where blocks come from.
        data: The task; its training images are looked at.
        settings: Of the search.
        store: Of stage results.
        seed: Of the partition's starts and of random adapters.
        placement: Device and precision of forward passes.
    """

    def __init__(
        self,
        zoo: Zoo,
        data: ImageDataModule,
        settings: SearchSettings,
        *,
        store: Store,
        seed: int,
        placement: Placement = CPU,
    ) -> None:
        self.zoo, self.data, self.settings, self.store, self.seed = zoo, data, settings, store, seed
        self.placement = placement
        self.chains = ChainCache(zoo, device=placement.device)
        self.timed = StageTimer()
        self.seconds = self.timed.seconds
        self.latency: LatencyTable | None = None
        self.scorer = lru_cache(maxsize=1)(self._make_scorer)
        self.images, self._stitches = ProbeImages(data, placement.device), Stitches()

    def run(self, tune: Tune | None = None, max_epochs: int | None = None) -> SearchResult:
        """Searches.

        Args:
            tune: Short tuning, needed where ``settings.finalists`` is above 1.
            max_epochs: Of the tuning that will follow; short tuning is no longer.

        Raises:
            UserError: Weights that are not there, a network that is no chain or too short, a budget that nothing fits.
        """
        for name in (*self.settings.composition.required, *self.settings.composition.forbidden):
            self.zoo.entry(name)
        log.info("zoo %s on %s: %d networks", self.zoo.name, self.data.name, len(self.zoo))
        with self.timed("features"):
            networks = self._extract(min_blocks=self.settings.partition.num_blocks)
        with self.timed("similarity"):
            similarity = self._similarity(networks)
        networks = [replace(network, features=()) for network in networks]  # a gigabyte for 30 networks and 512 images
        with self.timed("partition"):
            partition = self._partition(networks, similarity)
        descriptions = {network.description.name: network.description for network in networks}
        tell_partition(partition)
        if self.settings.budget.max_latency_ms is not None:
            with self.timed("latency"):
                self.latency = measure_parts(
                    self.chains,
                    {name: identity(self.zoo[name]) for name in descriptions},
                    self._costing(descriptions).seams(partition),
                    self.data.num_classes,
                    self.settings.budget.latency_batch_size,
                    self.store,
                    self.placement.device,
                )
        with self.timed("assembly"):
            costing = self._costing(descriptions)
            table = costing.table(partition)
            others = costing.others(table)
            question = ask(table, partition, self.settings.budget, self.settings.composition, others)
            listing = list_admitted(question, self.settings.proxy.max_scored if self._proxy.needs else None)
        predicted = None
        if (candidates := listing.candidates) is None:
            with self.timed("seams"):
                candidates, predicted = self._promising(question, networks, similarity)
        with self.timed("scores"):
            scored = self._score(candidates, networks)
        prediction = None
        if self._proxy.needs:
            scored, prediction = with_predictions(scored, self._proxy, candidates, predicted)
        num_fitting, scorer = listing.num_fitting, self.settings.proxy.name
        tell_scored(len(scored), num_fitting, self.settings.budget, scorer, prediction)
        if self.settings.finalists > 1:
            assert tune is not None
            with self.timed("finalists"):
                scored = decided(
                    scored,
                    self.settings.finalists,
                    self.settings.selection,
                    lambda entry, n: tune(self.blueprint(entry, descriptions), n),
                    max_epochs,
                )
        pick = scored[0]
        tell_pick(scored, "short_tuning" if self.settings.finalists > 1 else scorer)
        front = undominated_candidates(scored, self._proxy) if self.settings.budget.pareto else []
        latency: tuple[LatencyCheck, ...] = ()
        if self.latency is not None:
            latency = timed_candidates(
                [entry.candidate for entry in scored],
                lambda n: assemble(self.blueprint(scored[n], descriptions), self.chains),
                self.chains,
                self.latency.batch_size,
                self.placement.device,
            )
            tell_latency(latency[0], self.latency)
        return SearchResult(
            blueprint=self.blueprint(pick, descriptions),
            candidates=tuple(scored),
            num_fitting=num_fitting,
            prediction=prediction,
            front=tuple((entry, self.blueprint(entry, descriptions)) for entry in front),
            partition=partition,
            similarity=similarity,
            descriptions=descriptions,
            feature_keys={network.description.name: network.key for network in networks},
            left_out=self.zoo.left_out,
            latency=latency,
            seconds=dict(self.seconds),
            reused=self.store.reused,
        )

    def images_for(self, name: str) -> Rows:
        """The probe images as the network of that name takes them."""
        return self.images.rows(self.zoo[name].input, self.settings.similarity.num_probe_images)

    def build(self, blueprint: ReassemblyBlueprint) -> AssembledNetwork:
        """Assembles a blueprint and initialises its adapters, in eval mode.

        Raises:
            UserError: A network the zoo lacks or whose weights are not the blueprint's.
        """
        return self._stitches.assemble(blueprint, self.chains, self.images_for, seed=self.seed).cpu()

    def blueprint(
        self, pick: ScoredCandidate, descriptions: Mapping[str, ChainDescription], judge: str | None = None
    ) -> ReassemblyBlueprint:
        """The recipe of a candidate, which was picked by the search's proxy or by ``judge``."""
        inputs = self._costing(descriptions).head_inputs(pick.candidate)
        seam, own = self.settings.adapter.spec(), self.settings.adapter.own_spec()
        blocks = pick.candidate.pieces if inputs == "last" else pick.candidate.blocks
        adapters = [
            AdapterSpec(kind="none")
            if block.continues(before) and not pick.candidate.is_adapted
            else (own if pick.candidate.is_adapted else seam)
            for before, block in pairwise(blocks)
        ]
        proxy = judge or self.settings.proxy.name
        score = pick.scores[proxy]  # -inf of a network without what the proxy counts
        return ReassemblyBlueprint(
            blocks=blocks,
            adapters=tuple(adapters),
            head=HeadSpec(classes=self.data.class_names, inputs=inputs),
            networks={name: descriptions[name].digest for name in dict.fromkeys(block.network for block in blocks)},
            provenance=(
                Provenance(
                    "composed",
                    data=self.data.name,
                    data_digest=self.data.digest,
                    seed=self.seed,
                    zoo=self.zoo.name,
                    proxy=proxy,
                    score=score if math.isfinite(score) else None,
                ),
            ),
        )

    def whole_network(self, name: str | None, select: str | None = None) -> ReassemblyBlueprint:
        """The blueprint of one whole network of the zoo with a new head: the baseline, under no budget.

        Args:
            name: Of the network; ``None`` takes the first of the zoo by ``select``.
            select: A proxy, or ``home_accuracy``: what the zoo says that the weights reach on their own task, which
                knows nothing of this one. ``None`` takes the search's proxy.

        Raises:
            UserError: A network the zoo lacks, or one whose accuracy the zoo does not state.
        """
        judge = select or self.settings.proxy.name
        if name is None and judge == "home_accuracy":
            name = most_accurate(self.zoo)
        with self.timed("features"):
            networks = self._extract() if name is None else [self.extract_one(self.zoo.entry(name))]
        descriptions = {network.description.name: network.description for network in networks}
        costing = self._costing(descriptions)
        candidates = [costing.whole(description) for description in descriptions.values()]
        if judge == "home_accuracy":
            best = ScoredCandidate(candidates[0], {judge: self.zoo[name].accuracy.given})
        else:
            with self.timed("scores"):
                scored = self._score(candidates, networks, judge)
            best = scored[0]
            tell_whole_networks(scored, judge)
        tell_over_budget(best.candidate, self.settings.budget)
        return self.blueprint(best, descriptions, judge)

    def _extract(self, min_blocks: int = 1) -> list[NetworkFeatures]:
        """Of every network; a zoo that may do without those that are unfit is without them afterwards."""
        require_files(self.zoo)
        if self.zoo.leave_out != "unfit":
            require_chains(self.chains, [name for name in self.zoo if not self._has_features(name)], min_blocks)
        networks, unfit = [], {}
        with progress("features of networks", len(self.zoo)) as advance:
            for entry in self.zoo.values():
                try:
                    network = self.extract_one(entry)
                    network.description.require_length(min_blocks)
                    networks.append(network)
                except UserError as error:
                    if self.zoo.leave_out != "unfit":
                        raise
                    unfit[entry.name] = str(error)
                    log.info("left out: %s", error)
                advance()
        self.zoo = self.zoo.without(unfit)
        if self.zoo.left_out:
            told = shorten(list(self.zoo.left_out))
            log.warning("zoo %s: %d networks; left out: %s", self.zoo.name, len(self.zoo), told)
        return networks

    def extract_one(self, entry: ZooEntry) -> NetworkFeatures:
        """The features of one network of the zoo."""
        key, images = self._images_key(), lambda: self.images_for(entry.name)
        return extract_features(entry, self.chains, images, key, self.store, self.placement.dtype)

    def _has_features(self, name: str) -> bool:
        return self.store.holds("features", feature_inputs(self.zoo[name], self._images_key()))

    def _images_key(self) -> str:
        return content_key(*self._data_key(), self.settings.similarity.num_probe_images, *self.placement.key)

    def _data_key(self) -> list[str | None]:
        return [self.data.digest, module_digest(type(self.data).__module__)]

    def _similarity(self, networks: Sequence[NetworkFeatures]) -> Tensor:
        measure, options = self.settings.similarity.measure, self.settings.similarity.options()

        def compute() -> StageResult:
            device = self.placement.float64_device
            features = [tensor.to(device) for network in networks for tensor in network.features]
            nodes = [(each.description.name, node) for each in networks for node in each.description.nodes[:-1]]
            names = [f"node {node.index} ({node.name}) of {network!r}" for network, node in nodes]
            labels = {"labels": self.data.labels("train", len(features[0]))} if measure == "probe_kl" else {}
            return StageResult({"similarity": similarity_matrix(features, measure, names=names, **options, **labels)})

        inputs = {"measure": [measure, options], "features": [network.key for network in networks]}
        return self.store.fetch("similarity", inputs, compute).tensors["similarity"]

    def _partition(self, networks: Sequence[NetworkFeatures], similarity: Tensor) -> Partition:
        settings, features = self.settings.partition, feature_indices(networks)
        names = [network.description.name for network in networks]

        def compute() -> StageResult:
            return StageResult(values=to_plain(find_partition(similarity, features, names, settings, seed=self.seed)))

        inputs = {
            "measure": [self.settings.similarity.measure, self.settings.similarity.options()],
            "features": [network.key for network in networks],
            "names": names,
            "settings": [settings, self.seed],
        }
        return from_plain(Partition, self.store.fetch("partition", inputs, compute).values, "partition")

    def _costing(self, descriptions: Mapping[str, ChainDescription]) -> Costing:
        return Costing(self.settings, descriptions, self.data.num_classes, self.latency)

    @cached_property
    def _proxy(self) -> Proxy:
        return find_proxy(self.settings.proxy.name)

    def _scoring(self, judge: str | None = None) -> ProxySettings:
        """How candidates are scored; where a search picks by its own proxy, also by those that finalists need."""
        proxy = self.settings.proxy
        if judge not in (None, proxy.name):
            return replace(proxy, name=judge)
        seats = self.settings.selection.proxies(self.settings.finalists)
        return replace(proxy, also=tuple(dict.fromkeys((*proxy.also, *seats))))

    def _make_scorer(self, judge: str) -> Scorer:
        settings = self._scoring(judge)
        data = ScoringData.of(self.zoo, self.images, settings.num_images, self.placement.dtype)
        return Scorer(self.chains, data, settings, self.settings.adapter.spec(), self.seed)

    def seam_values(self, request: SeamRequest, origins: Sequence[str]) -> PathCosts:
        """What is predicted of compositions by the scores of the seams behind these networks."""
        cuts = {column[0].network: [b.nodes[0] for b in column] for column in zip(*request.blocks, strict=True)}
        scorer = self.scorer(self.settings.proxy.name)
        return seam_values(request, origins, lambda paths: scorer.path_scores(paths, cuts), self.store)

    def _promising(
        self, question: Question, networks: Sequence[NetworkFeatures], similarity: Tensor
    ) -> tuple[list[Candidate], list[float]]:
        """The candidates that the 0-1 programme predicts to be best, and what it predicts."""
        settings = self.settings.proxy
        inputs = {
            "networks": {network.description.name: network.key for network in networks},
            "data": self._data_key(),
            "settings": [settings.name, settings.adapters, settings.num_images, settings.batch_size],
            "adapter": [self.settings.adapter.spec(), self.seed],
        }
        shortlist = seam_shortlist(question.table.blocks, networks, similarity, self.settings)
        value = self.seam_values(SeamRequest(question.table.blocks, inputs, shortlist), question.origins())
        if (exact := solve_milp(question.programme(value), time_limit=10)) is not None:
            log.info("the programme's optimum is %.4g; HiGHS leaves a gap of %.2g", exact.value, exact.gap)
        return promising(
            question, value, settings.max_scored, settings.min_difference, front=self.settings.budget.pareto
        )

    def _score(
        self, candidates: Sequence[Candidate], networks: Sequence[NetworkFeatures], judge: str | None = None
    ) -> list[ScoredCandidate]:
        settings, spec = self._scoring(judge), self.settings.adapter.spec()
        of = {
            "networks": {network.description.name: network.key for network in networks},
            "data": self._data_key(),
            "seed": self.seed,
        }

        def compute() -> StageResult:
            scored = self.scorer(settings.name).scores(candidates, ScoreLedger(self.store, of))
            return StageResult(values=to_plain(scored))

        inputs = {**of, "candidates": content_digest(candidates), "settings": [settings, spec]}
        stored = self.store.fetch("scores", inputs, compute).values
        now = {(candidate.blocks, candidate.is_adapted): candidate for candidate in candidates}  # with its time
        scored = [from_plain(ScoredCandidate, row, "scores") for row in stored]
        scored = [replace(e, candidate=now[e.candidate.blocks, e.candidate.is_adapted]) for e in scored]
        if not math.isfinite(scored[0].scores[settings.name]):
            raise UserError(
                f"no candidate has a finite score by proxy.name={settings.name}: type another, e.g. proxy=ridge, or "
                "check the weights of the zoo"
            )
        return scored
