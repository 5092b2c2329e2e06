"""Cloning from a zoo and a task to a blueprint: select -> localise -> insert.

Every stage is stored by content: an identical search repeats nothing, a changed setting redoes what depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cloning.blueprint import CloningBlueprint, build, describe
from cloning.choice import Combination, PositionResult, choose
from cloning.clone import Clone, num_means, spread_cuts
from cloning.evidence import whole_graft
from cloning.feature_selection import select_features
from cloning.fitting import calibrate_network_head, fit_adapter, is_without_originals, with_fitted_adapters
from cloning.frozen import FrozenNetwork, FrozenNetworks
from cloning.gates import num_gates
from cloning.insertion import check_budget, check_position, search_position
from cloning.localise import localise
from cloning.measures import Accuracies, Locality, measure_accuracies, measure_locality
from cloning.network import ClonedNetwork
from cloning.result import CloningSearchResult
from cloning.samples import MAX_IMAGES, correction_samples
from cloning.selection import Selection, Source, select_from
from cloning.settings import WHOLE, CloningSettings, Share
from cloning.statistics import Statistics, owner_sums, solve_from_statistics
from cloning.task_data import TaskData
from cloning.telling import tell_added, tell_data, tell_insertion
from cloning.together import Together
from datamodules import ImageDataModule
from datamodules.correction import CorrectionData
from zoo.blueprint import Provenance
from zoo.chain.modes import float32_products
from zoo.conversion import convert
from zoo.description import identity
from zoo.devices import CPU, Placement
from zoo.digests import digest
from zoo.registry import Zoo
from zoo.storage.records import from_plain, to_plain
from zoo.storage.stages import StageTimer
from zoo.storage.store import StageResult, Store

log = logging.getLogger(__name__)


class CloningSearch:
    """One search; ``run`` is the whole of it, ``build`` makes the network of its blueprint.

    Args:
        zoo: Where target and sources come from.
        data: The task.
        settings: Of the search.
        store: Of stage results.
        seed: Of all that is drawn.
        placement: Device of localisation, insertion, closed forms and measures; precision of the forward passes of
            localisation and insertion. The networks stay where they are, copies of them compute.
    """

    def __init__(
        self,
        zoo: Zoo,
        data: ImageDataModule,
        settings: CloningSettings,
        *,
        store: Store,
        seed: int,
        placement: Placement = CPU,
    ) -> None:
        self.zoo, self.data, self.settings, self.store, self.seed = zoo, data, settings, store, seed
        self.placement, self.task_data = placement, TaskData(data, settings.correction, placement)
        self.networks = FrozenNetworks(zoo)
        self.timed = StageTimer()
        self.seconds = self.timed.seconds

    @float32_products()
    def run(self) -> CloningSearchResult:
        """Searches.

        Raises:
            UserError: A task that the zoo or the data cannot serve, a position outside the target's chain.
        """
        with self.timed("selection"):
            selection = select_from(self.zoo, self.settings.task, self._num_params)
            target = self.networks(selection.target)
            check_position(target, self.settings.insertion)
            given = [self.networks(source.network) for source in selection.sources]
            check_budget(target, given, len(selection.kept) + len(selection.cloned), self.settings)
            log.info("the target %s keeps %s", selection.target, ", ".join(selection.kept))
            data = self.task_data.correction([*selection.kept, *selection.cloned], selection.cloned, target)
            tell_data(data)
        modules, tables = [], []
        for source in selection.sources:
            with self.timed("localisation"):
                modules.append(self._localise(selection, source))
            with self.timed("insertion"):
                tables.append(self._insert(selection, source, modules[-1]))
        with self.timed("choice"):
            chosen, together = self._choose(selection, modules, tables)
        clones = []
        for row, found, table in zip(chosen, modules, tables, strict=True):
            module = found[row.share]
            clones.append(replace(module, position=row.position))
            tell_insertion(
                *(module, row, table, self.settings.insertion),
                is_bound=not self.settings.budget.is_open,
                is_together=bool(together),
            )
        tell_added(clones, chosen, together, self.settings.correction, self._head_cuts(target))
        with self.timed("blueprint"):
            classes = (*self.settings.task.classes, *self.settings.task.cloned)
            network = self._compose(selection, classes, clones, chosen)
            told = {"data": self.data.name, "data_digest": self.data.digest, "seed": self.seed, "zoo": self.zoo.name}
            blueprint = describe(network, [Provenance("composed", **told)])
        return CloningSearchResult(
            blueprint=blueprint,
            selection=selection,
            positions=tuple(row for table in tables for row in table),
            chosen=chosen,
            together=together,
            digests=dict(blueprint.networks),
            seconds=dict(self.seconds),
            reused=self.store.reused,
        )

    def correction(self, blueprint: CloningBlueprint) -> CorrectionData:
        """The weak data of a blueprint's classes, its labels numbered as the network's outputs."""
        return self.task_data.correction(blueprint.classes, blueprint.cloned_classes, self.networks(blueprint.target))

    def build(self, blueprint: CloningBlueprint) -> ClonedNetwork:
        """The network of a blueprint in closed form: fitted adapters, block-initialised head.

        Without samples of the target's classes the blocks of the head are calibrated on validation images.

        Raises:
            UserError: A network the zoo lacks or whose weights are not the blueprint's.
        """
        network = build(blueprint, self.networks)
        data, settings = self.correction(blueprint), self.settings.correction
        train = self.task_data.samples(data, "train", network.target)
        network = with_fitted_adapters(network, train.images, seed=self.seed).cpu()
        if settings.name == "exemplars" and is_without_originals(network, train.labels):
            network.to(self.placement.device)
            calibrate_network_head(network, self.task_data.samples(data, "val", network.target, limit=MAX_IMAGES))
            network.cpu()
        if settings.name == "statistics":
            statistics = self.statistics(network)
            network.cpu()
            ridge = solve_from_statistics(network, statistics, projection=settings.projection, ridge=settings.ridge)
            log.info(
                "F_c is solved from the statistics of %s, %d distorted copies an image: %s bytes, ridge %.2g",
                *(", ".join(statistics.owners), settings.num_copies, f"{statistics.num_bytes:,}", ridge),
            )
        return network

    def statistics(self, network: ClonedNetwork) -> Statistics:
        """What the owners of target and sources ship for a cloned network: sums over images that stay with them.

        The target's owner sums over all training images of the classes that it keeps, a source's over the share
        ``correction.fraction`` of those of the classes it gives, and either over ``correction.num_copies`` distorted
        copies of each. The network is moved to the search's device.
        """
        network.to(self.placement.device)
        settings, found = self.settings.correction, Statistics()
        shares = {network.target: (network.kept_classes, 1.0)}
        for clone in network.clones:
            given = shares.get(clone.source, ((), 1.0))[0]
            shares[clone.source] = ((*given, *clone.classes), settings.fraction)
        for owner, (classes, fraction) in shares.items():
            if classes:
                data = CorrectionData(
                    self.data, classes=network.classes, cloned=classes, fraction=fraction, exemplars=0
                )
                parts = correction_samples(data, network.target.input, settings.num_copies)
                found = found.with_sums(owner_sums(network, parts, owner.name, projection=settings.projection))
        return found

    def accuracies(self, network: ClonedNetwork, split: str = "test") -> Accuracies:
        """Accuracies on a split; the network is moved to the search's device."""
        data = self.correction(describe(network))
        network.to(self.placement.device)
        return measure_accuracies(network, self.task_data.samples(data, split, network.target))

    def localities(self, network: ClonedNetwork, split: str = "test") -> tuple[Locality, ...]:
        """Conditional similarity of every module, on all classes of its source that the data has.

        The network is moved to the search's device.
        """
        network.to(self.placement.device)
        found = []
        for clone in network.clones:
            images, labels = self.data.images(split, clone.source.input, limit=MAX_IMAGES)
            names = [name for name in clone.source.classes if name in self.data.class_names]
            by_class = {name: images[labels == self.data.class_names.index(name)] for name in names}
            by_class = {name: x.to(self.placement.device) for name, x in by_class.items()}
            found.append(measure_locality(clone, by_class, seed=self.seed))
        return tuple(found)

    def _num_params(self, name: str) -> int:
        def compute() -> StageResult:
            return StageResult(values=self.networks(name).chain.costs.num_params)

        return self.store.fetch("num_params", {"entry": identity(self.zoo[name])}, compute).values

    def _localise(self, selection: Selection, source: Source) -> dict[Share, Clone]:
        """The modules of everything that is tried; the whole source is one of them unless a share is asked for."""
        network, target = self.networks(source.network), self.networks(selection.target)
        data = self.task_data.correction((*selection.kept, *selection.cloned), selection.cloned, target)
        given = [(self.networks(other.network), other.classes) for other in selection.sources]
        place, settings = selection.sources.index(source), self.settings.localisation
        whole = Clone(network, source.classes, torch.ones(num_gates(network.sites)), 0)

        def compute() -> StageResult:
            samples = self.task_data.samples(data, "train", target)
            images = convert(samples.images, target.input, network.input)
            labels = samples.labels - data.class_names.index(source.classes[0])
            cloned = (labels >= 0) & (labels < len(source.classes))
            outputs = torch.tensor([network.classes.index(name) for name in source.classes]).to(images.device)
            graft = whole_graft(target, given, place, selection.kept, samples)
            found = localise(
                network.on(images.device).chain,
                network.sites,
                images[cloned],
                outputs[labels[cloned]],
                settings,
                black=network.black,
                seed=self.seed,
                others=images[~cloned],
                macs=network.gate_macs,
                precision=self.placement.dtype,
                graft=graft,
            )
            modules = [replace(whole, gates=one.gates) for one in found]
            if settings.selects_features:
                by_class = {name: images[samples.labels == label] for label, name in enumerate(data.class_names)}
                known = {name: x for name, x in by_class.items() if name in network.classes}
                if graft is None or not any(len(x) for name, x in known.items() if name not in source.classes):
                    log.info("%s hands on all its features: there is no image of its other classes", network.name)
                    known = {}
                options = {"contrast": settings.contrast, "precision": self.placement.dtype}
                modules = [select_features(module, known, **options) for module in modules]
            return StageResult(
                {f"{k}.{name}": x for k, module in enumerate(modules) for name, x in module.parts.items()},
                [to_plain(one.share) for one in found],
            )

        if settings.name == "none":
            return {WHOLE: whole}
        inputs = {
            "target": self._identity(target),
            "sources": [[self._identity(other), classes] for other, classes in given],
            "place": place,
            "kept": selection.kept,
            "data": self.task_data.key(data),
            "settings": settings,
            "seed": self.seed,
        }
        result = self.store.fetch("localisation", inputs, compute)
        shares = [from_plain(Share, share, "localisation") for share in result.values]
        parts = [(result.tensors[f"{k}.gates"], result.tensors.get(f"{k}.selected")) for k in range(len(shares))]
        found = {
            share: replace(whole, gates=gates, selected=selected)
            for share, (gates, selected) in zip(shares, parts, strict=True)
        }
        return found if settings.keep is not None else {WHOLE: whole, **found}

    def _insert(self, selection: Selection, source: Source, modules: Mapping[Share, Clone]) -> list[PositionResult]:
        target = self.networks(selection.target)
        clone, head_cuts = next(iter(modules.values())), self._head_cuts(target)
        is_limited, settings = not self.settings.budget.is_open, self.settings.insertion
        data = self.task_data.correction((*selection.kept, *clone.classes), clone.classes, target)

        def compute() -> StageResult:
            train, val = self.task_data.train_and_val(data, target)
            rows = search_position(
                *(target, modules, selection.kept, train, val, settings),
                seed=self.seed,
                is_limited=is_limited,
                precision=self.placement.dtype,
                head_cuts=head_cuts,
            )
            return StageResult(values=to_plain(rows))

        inputs = {
            "target": self._identity(target),
            "source": self._identity(clone.source),
            "gates": [[share, digest(module.parts)] for share, module in modules.items()],
            "is_limited": is_limited,
            "head_cuts": head_cuts,
            "data": self.task_data.key(data),
            "settings": settings,
            "seed": self.seed,
        }
        found = self.store.fetch("insertion", inputs, compute).values
        alone, together = (len(selection.kept) + len(cloned) for cloned in (clone.classes, selection.cloned))
        is_first = source == selection.sources[0]  # what is read of the target counts once, as in added_costs
        shared = ((together if is_first else 0) - alone) * num_means(target, head_cuts)
        rows = [from_plain(PositionResult, row, "insertion") for row in found]
        rows = [row.beside(shared + (together - alone) * modules[row.share].num_features) for row in rows]
        return [replace(row, source=source.network) for row in rows]  # which may have had another name then

    def _head_cuts(self, target: FrozenNetwork) -> tuple[int, ...]:
        """Where F_c reads the target, if it is solved; calibrated it would not know what to do with more."""
        correction = self.settings.correction
        is_solved = correction.exemplars > 0 or correction.name == "statistics"
        return spread_cuts(target, self.settings.insertion.num_head_cuts) if is_solved else ()

    def _choose(
        self,
        selection: Selection,
        modules: Sequence[Mapping[Share, Clone]],
        tables: Sequence[Sequence[PositionResult]],
    ) -> tuple[tuple[PositionResult, ...], tuple[Combination, ...]]:
        """A row of each table, and what was looked at together."""
        target, insertion, budget = self.networks(selection.target), self.settings.insertion, self.settings.budget
        data = self.task_data.correction((*selection.kept, *selection.cloned), selection.cloned, target)
        head_cuts = self._head_cuts(target)
        if len(tables) == 1:
            return choose(tables, insertion, budget), ()

        def compute() -> StageResult:
            train, val = self.task_data.train_and_val(data, target)
            together = Together(
                *(target, modules, selection.kept, train, val, self.seed, self.placement.dtype), head_cuts
            )
            chosen = choose(tables, insertion, budget, together=together)
            places = [table.index(row) for table, row in zip(tables, chosen, strict=True)]
            return StageResult(values=[places, to_plain([*together.known.values()])])

        inputs = {
            "target": self._identity(target),
            "modules": [
                [self._identity(module.source), digest(module.parts)] for found in modules for module in found.values()
            ],
            "tables": to_plain(tables),
            "head_cuts": head_cuts,
            "data": self.task_data.key(data),
            "settings": [insertion, budget],
            "seed": self.seed,
        }
        places, known = self.store.fetch("choice", inputs, compute).values
        found = tuple(from_plain(Combination, combination, "choice") for combination in known)
        return tuple(table[place] for table, place in zip(tables, places, strict=True)), found

    def _identity(self, network: FrozenNetwork) -> list[Any]:
        """What decides a network's outputs and their names, for content keys."""
        return [identity(self.zoo[network.name]), network.digest(), network.classes]

    def _compose(
        self, selection: Selection, classes: Sequence[str], clones: Sequence[Clone], chosen: Sequence[PositionResult]
    ) -> ClonedNetwork:
        """The network of what was chosen, with fitted adapters; where the search computes."""
        target = self.networks(selection.target)
        data = self.task_data.correction(classes, selection.cloned, target)
        images = self.task_data.samples(data, "train", target).images
        fits = [
            fit_adapter(target, clone, images, kernel_size=row.kernel_size, seed=self.seed)
            for clone, row in zip(clones, chosen, strict=True)
        ]
        adapters = [fit.adapter if fit else None for fit in fits]
        network = ClonedNetwork(target, classes, clones, adapters, self._head_cuts(target))
        return network.to(self.placement.device)
