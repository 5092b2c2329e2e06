"""Insertion: the search for the position of a graft.

Source: Partial Network Cloning (arXiv 2303.10597), Insert(.): every position is tuned shortly, and the one whose loss
converges lowest wins.

Which units of the source stay is searched together with the position: every share of localisation is tried at the
image, where that is cheap, and the one chosen there at every other position.

Differs from the paper: positions are first compared in closed form (adapter by ridge regression, F_c solved), and those
whose loss is near the least are tuned shortly, where F_c is solved to convergence again. The loss is that of validation
images. The loss of the few samples tuned on prefers deep positions, where wide adapters learn them by heart; besides,
the networks of the zoo may have been trained on these very images. Positions come from shallow to deep, so that no node
of the target runs twice on an image, and where the cheapest near the least is wanted, the search ends when
``PATIENCE`` positions one after the other are far from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from cloning.choice import LOSS_FLOOR, PositionResult, choose
from cloning.clone import Clone, num_positions, source_position
from cloning.feature_selection import least_selected
from cloning.fitting import compared_logits, fit_adapter_to, is_without_originals
from cloning.frozen import FrozenNetwork
from cloning.gates import hard_gates, num_gates
from cloning.head import balanced_cross_entropy, class_weights
from cloning.measures import accuracies_of_logits, added_costs, centred_cosine, mean, num_bytes
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from cloning.settings import CloningSettings, InsertionSettings, Share
from cloning.stages import module_features, target_features
from zoo.chain import Costs
from zoo.chain.batches import in_precision, require_finite, run_in_batches
from zoo.conversion import convert
from zoo.errors import UserError
from zoo.progress import progress
from zoo.stitching.adapters import Adapter, adapter_costs

MAX_HELD_BYTES = 2**29
"""Of the values at one cut of a chain that are kept; larger ones are computed from the last cut that was kept."""

PROMISING = 1.25
"""Times tolerance (the smaller of both) and least loss: what is worth a short tuning."""

PATIENCE = 3
"""Positions in a row that are not, after which the search for the cheapest near the least ends."""


def search_position(
    target: FrozenNetwork,
    modules: Mapping[Share, Clone],
    kept: Sequence[str],
    train: Samples,
    val: Samples,
    settings: InsertionSettings,
    *,
    seed: int,
    is_limited: bool = False,
    precision: torch.dtype | None = None,
    head_cuts: Sequence[int] = (),
) -> list[PositionResult]:
    """Tries shares and positions, with this one source alone; on the device of the samples.

    Args:
        target: The network that receives.
        modules: By what of the source they are; their own positions do not count.
        kept: The target's classes that stay.
        train: Correction samples, labelled by ``kept`` and then the clone's classes.
        val: Validation samples, labelled likewise.
        settings: How to search.
        seed: Of the order of batches.
        is_limited: There is a budget: the smallest module is tried at every position, too.
        precision: Of the networks' products, as in ``run_in_batches``; adapters in closed form are float64 in any.
        head_cuts: As of ``ClonedNetwork``.

    Returns:
        A row per share and position tried, deep to shallow.

    Raises:
        UserError: A fixed position outside the chain.
    """
    tries = _Tries(target, modules, kept, train, val, settings, seed, precision, head_cuts)
    first = settings.position if settings.name == "fixed" else 0
    deeper = [] if settings.name == "fixed" else range(1, num_positions(target))
    may_end = settings.name == "tolerance" and not is_limited
    with progress(f"positions for {tries.source.name}", len(modules) + len(deeper)) as advance:
        rows = []
        for share in modules:
            rows.append(tries.attempt(share, first, math.inf))
            advance()
        (chosen,) = choose([rows], settings)
        least = min(modules, key=lambda share: share.keep)
        shares = dict.fromkeys([chosen.share, least] if is_limited else [chosen.share])
        allowed = settings.tolerance if settings.name == "tolerance" else 1.0
        if may_end:
            allowed = min(allowed, settings.inner_tolerance)
        num_far = 0
        for position in deeper:
            if may_end and num_far == PATIENCE:
                break
            least = max(min(row.loss for row in rows), LOSS_FLOOR)
            bound = PROMISING * allowed * least
            found = [tries.attempt(share, position, bound) for share in shares]
            num_far = 0 if min(row.loss for row in found) <= bound else num_far + 1
            rows += found
            advance()
    return sorted(rows, key=lambda row: (-row.position, -row.share.keep))


@dataclass
class _Walk:
    """Images on their way through a chain: each cut is reached from the last one whose values were kept."""

    network: FrozenNetwork
    values: Tensor
    precision: torch.dtype | None
    gates: Tensor | None = None
    cut: int = 0

    def reach(self, cut: int) -> Callable[[Tensor], Tensor]:
        """From ``values`` to those at a cut that is no shallower than any before."""
        shape, chain = self.network.chain.signal(cut).shape(len(self.values)), self.network.chain
        if cut > self.cut and self.values.element_size() * math.prod(shape) <= MAX_HELD_BYTES:
            self.values, self.cut = self.run(self._step(cut)), cut
            require_finite(self.values, chain=chain, cut=cut)
        return self._step(cut)

    def run(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The outputs of a function for all values, (n, ...)."""
        run = in_precision(function, self.precision)
        return run_in_batches(run, self.values, batch_size=BATCH_SIZE)

    def _step(self, cut: int) -> Callable[[Tensor], Tensor]:
        return partial(self.network.features_at, cut, start=self.cut, gates=self.gates)


@dataclass
class _Tries:
    """The tries of one source; what several of them need is computed once."""

    target: FrozenNetwork
    modules: Mapping[Share, Clone]
    kept: Sequence[str]
    train: Samples
    val: Samples
    settings: InsertionSettings
    seed: int
    precision: torch.dtype | None
    head_cuts: Sequence[int]
    homes: dict[Share, _Walk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clone = next(iter(self.modules.values()))
        self.source, self.classes = clone.source, [*self.kept, *clone.classes]
        self.splits = (self.train, self.val)
        self.walks = [_Walk(self.target, samples.images, self.precision) for samples in self.splits]
        self.images = [convert(samples.images, self.target.input, self.source.input) for samples in self.splits]
        self.own = [walk.run(lambda x: target_features(self.target, x, self.head_cuts)[0]) for walk in self.walks]
        self.whole = _Walk(self.source, self.images[1], self.precision).run(self.source.logits)
        self.similarities = {share: self._similarity(share) for share in self.modules}

    def attempt(self, share: Share, position: int, promising: float) -> PositionResult:
        """One share at one position; tuned shortly if the loss in closed form is at most ``promising``."""
        started, module = time.perf_counter(), self.modules[share]
        clone = module if position == 0 else replace(module, position=position)
        adapter = self._adapter(share, clone) if position else None
        network = ClonedNetwork(self.target, self.classes, [clone], [adapter], self.head_cuts)
        network.to(self.train.images.device)
        logits, loss = self._compared(network)
        is_strict = is_without_originals(network, self.train.labels)
        if adapter is not None and not is_strict and loss <= promising:
            train_shortly(network, self.train, self.settings, seed=self.seed, precision=self.precision)
            tuned = self._compared(network)
            logits, loss = min((logits, loss), tuned, key=lambda found: found[1])
        if not math.isfinite(loss):
            raise UserError(
                f"insertion of {self.source.name!r} at {position}: the validation loss is {loss}; lower "
                "insertion.learning_rate, or check the weights of target and source"
            )
        (added,) = added_costs(network)
        accuracies = accuracies_of_logits(logits, self.val.labels, len(self.classes))
        return PositionResult(
            source=self.source.name,
            position=position,
            source_position=source_position(self.target, self.source, position),
            loss=loss,
            val_original=mean(accuracies[: len(self.kept)]),
            val_cloned=mean(accuracies[len(self.kept) :]),
            num_bytes=num_bytes(network),
            kernel_size=adapter.kernel_size if adapter else 0,
            seconds=time.perf_counter() - started,
            keep=share.keep,
            num_features=clone.num_features,
            sim_cloned=self.similarities[share][0],
            sim_other=self.similarities[share][1],
            added_params=added.num_params,
            added_macs=added.macs,
        )

    @torch.no_grad()
    def _compared(self, network: ClonedNetwork) -> tuple[Tensor, float]:
        """Logits and loss on validation images."""
        return compared_logits(network, *(self._read(network, side) for side in (0, 1)))

    def _read(self, network: ClonedNetwork, side: int) -> tuple[Tensor, Tensor]:
        """What the head reads of a split, (n, d), and its labels."""
        return torch.cat([self.own[side], self._grafted(network, side)], dim=1), self.splits[side].labels

    def _grafted(self, network: ClonedNetwork, side: int) -> Tensor:
        """What the module gives to the head, (n, d), for the images of a split."""
        (clone,), (adapter,), walk = network.clones, network.adapters, self.walks[side]
        if clone.position == 0:
            return self._at_image(clone, side)
        reach, start = walk.reach(clone.position), source_position(self.target, self.source, clone.position)
        return walk.run(lambda x: module_features(clone, adapter(reach(x)), start))

    def _at_image(self, clone: Clone, side: int) -> Tensor:
        return _Walk(self.source, self.images[side], self.precision).run(lambda x: module_features(clone, x))

    def _adapter(self, share: Share, clone: Clone) -> Adapter:
        """Fitted in closed form to what the masked source makes at home."""
        start = source_position(self.target, self.source, clone.position)
        home = self.homes.setdefault(share, _Walk(self.source, self.images[0], self.precision, clone.gates))
        incoming, wanted = (walk.run(walk.reach(cut)) for walk, cut in ((self.walks[0], clone.position), (home, start)))
        kernel_size = self.settings.kernel_size
        return fit_adapter_to(self.target, clone, incoming, wanted, kernel_size=kernel_size, seed=self.seed).adapter

    def _similarity(self, share: Share) -> tuple[float, float | None]:
        """Cosine of the module's logits with the source's on the cloned classes, and on its other ones."""
        known = torch.tensor([name in self.source.classes for name in self.classes]).to(self.val.labels.device)
        module = self.modules[share]
        cosines = centred_cosine(module.classify(self._at_image(module, 1)), self.whole)
        is_cloned, is_known = self.val.labels >= len(self.kept), known[self.val.labels]
        sides = [cosines[side].mean().item() if side.any() else None for side in (is_cloned, is_known & ~is_cloned)]
        return 1.0 if sides[0] is None else sides[0], sides[1]


def train_shortly(
    network: ClonedNetwork,
    samples: Samples,
    settings: InsertionSettings,
    *,
    seed: int,
    precision: torch.dtype | None = None,
) -> None:
    """Trains adapters and F_c for a few epochs, in place; what lies in front of the adapters is computed once."""
    prefix, rest = network.frozen_prefix("freeze")
    packed = run_in_batches(prefix, samples.images, batch_size=BATCH_SIZE, precision=precision)
    logits_of = in_precision(lambda x: network.head(rest(x)), precision)
    weights = class_weights(samples.labels, len(network.classes)) * len(packed)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    num_batches = -(-len(packed) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_epochs * num_batches)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.num_epochs):
        for batch in torch.randperm(len(packed), generator=generator).to(packed.device).tensor_split(num_batches):
            of_batch = weights[batch.to(weights.device)] / len(batch)
            loss = balanced_cross_entropy(logits_of(packed[batch]), samples.labels[batch], of_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def check_position(target: FrozenNetwork, settings: InsertionSettings) -> None:
    """Refuses a fixed position outside the target's chain."""
    if settings.name == "fixed" and not 0 <= settings.position < num_positions(target):
        raise UserError(
            f"insertion.position={settings.position} is outside of {target.name!r}; "
            f"allowed: 0 (the input image) to {num_positions(target) - 1} (the input of the head)"
        )


def check_budget(
    target: FrozenNetwork, sources: Sequence[FrozenNetwork], num_classes: int, settings: CloningSettings
) -> None:
    """Refuses a budget for clones below the least that any could add: all gates closed that may be.

    Args:
        target: The network that receives.
        sources: The networks that give.
        num_classes: Of the cloned network.
        settings: What the clones may add, how positions are searched and modules localised.
    """
    budget, insertion, localisation = settings.budget, settings.insertion, settings.localisation
    positions = [insertion.position] if insertion.name == "fixed" else range(num_positions(target))
    least = Costs(0, 0)
    for source in () if budget.is_open else sources:
        is_selected = localisation.selects_features and settings.correction.exemplars > 0
        columns = (least_selected(source.num_features) if is_selected else source.num_features) * num_classes
        gates = hard_gates(torch.zeros(num_gates(source.sites)), source.sites, 0.0, localisation.min_per_layer)
        gates = torch.ones_like(gates) if localisation.name == "none" else gates
        least += _least_added(target, source, gates, positions) + Costs(columns, columns)
    if not budget.admits(least.num_params, least.macs):
        raise UserError(
            f"{budget.typed}: no clones add so little; any add at least {least.macs:,} MACs and "
            f"{least.num_params:,} parameters: type a larger budget, or leave it out"
        )


def _least_added(target: FrozenNetwork, source: FrozenNetwork, gates: Tensor, positions: Sequence[int]) -> Costs:
    """No more than a module with some gates adds anywhere, with the adapter that it needs there."""
    found, inner = [], [position for position in positions if position > 0]
    if 0 in positions:
        found.append(source.slim(gates, 0).costs)
    if inner:
        signals = [(p, source_position(target, source, p)) for p in inner]
        adapters = [adapter_costs(target.chain.signal(p), source.chain.signal(start)) for p, start in signals]
        deepest = source.slim(gates, signals[-1][1]).costs
        found.append(deepest + _least(adapters))
    return _least(found)


def _least(costs: Sequence[Costs]) -> Costs:
    return Costs(min(each.num_params for each in costs), min(each.macs for each in costs))
