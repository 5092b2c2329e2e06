"""Insertion: the search for the position of a graft, from deep to shallow, by a short tuning at each.

Source: Partial Network Cloning (arXiv 2303.10597), Insert(.): every position is tuned shortly, and the one whose loss
converges lowest wins.

Which units of the source stay is searched together with the position: every share of localisation is tried at the
image, where that is cheap, and the one chosen there at every other position.

Differs from the paper: F_c is solved to convergence at the end of the short tuning, and the loss is that of validation
images. The loss of the few samples tuned on prefers deep positions, where wide adapters learn them by heart; besides,
the networks of the zoo may have been trained on these very images.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cloning.clone import Clone, num_positions, source_position
from cloning.fitting import fit_adapter, network_features, solve_network_head
from cloning.frozen import FrozenNetwork
from cloning.head import balanced_cross_entropy, class_weights
from cloning.localise import centred_cosine
from cloning.measures import accuracies_of_logits, added_costs, mean, num_bytes
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from cloning.settings import AddedBudget, InsertionSettings
from zoo.chain.batches import in_precision, run_in_batches
from zoo.conversion import convert
from zoo.errors import UserError
from zoo.progress import progress

LEAST_CLONED, MOST_OTHER = 0.9, 0.5
"""Conditional similarities of a module that counts as local."""

LOSS_FLOOR = 0.02
STRICT_FLOOR = 0.01
"""Losses below which differences do not count when the cheapest near the least is chosen."""

MOST_LOST = 0.005
"""Validation accuracy, mean of original and cloned classes, that the cheapest may lose against the least loss."""

MAX_COMBINATIONS = 200_000


@dataclass(frozen=True)
class PositionResult:
    """One row of the table of positions.

    Attributes:
        source: Name of the source.
        position: The cut R of the target.
        source_position: The cut of the source that it feeds.
        loss: What the search compares: class-balanced cross-entropy of the validation samples after the short tuning;
            without correction samples of the target's classes how far the module is from its source on the validation
            samples of the cloned classes, one minus the mean cosine of their logits about the mean.
        val_original: Accuracy after the short tuning on the target's classes of the validation split, averaged over
            the classes; in [0, 1].
        val_cloned: The same for the cloned classes.
        num_bytes: Of what would travel: gates, adapter and head, in float32.
        kernel_size: Of the adapter, 0 where there is none.
        seconds: Wall time.
        keep: The share of localisation, 1 for the whole source.
        sim_cloned: Cosine of the module's logits with the source's on the cloned classes, both about their mean, on the
            image itself; of the validation split.
        sim_other: The same on the source's other classes; ``None`` if the target keeps none of them.
        added_params: Parameters of the slim module, its adapter and its columns of the head.
        added_macs: Multiply-accumulate operations of the same, per image.
    """

    source: str
    position: int
    source_position: int
    loss: float
    val_original: float
    val_cloned: float
    num_bytes: int
    kernel_size: int
    seconds: float
    keep: float = 1.0
    sim_cloned: float = 1.0
    sim_other: float | None = None
    added_params: int = 0
    added_macs: int = 0

    @property
    def accuracy(self) -> float:
        """Mean of the accuracies on the target's and the cloned classes, as far as they are known."""
        return mean([self.val_original, self.val_cloned]) or 0.0

    @property
    def is_local(self) -> bool:
        """Whether the module is as its source on the cloned classes, and is not on others."""
        return self.sim_cloned >= LEAST_CLONED and (self.sim_other is None or self.sim_other <= MOST_OTHER)


def search_position(
    target: FrozenNetwork,
    modules: Mapping[float, Clone],
    kept: Sequence[str],
    train: Samples,
    val: Samples,
    settings: InsertionSettings,
    *,
    seed: int,
    is_limited: bool = False,
    precision: torch.dtype | None = None,
) -> list[PositionResult]:
    """Tries shares and positions, with this one source alone; on the device of the samples.

    Args:
        target: The network that receives.
        modules: By share of localisation; their own positions do not count.
        kept: The target's classes that stay.
        train: Correction samples, labelled by ``kept`` and then the clone's classes.
        val: Validation samples, labelled likewise.
        settings: How to search.
        seed: Of the order of batches.
        is_limited: There is a budget: the smallest module is tried at every position, too.
        precision: Of the networks' products, as in ``run_in_batches``; adapters in closed form are float64 in any.

    Returns:
        A row per share and position tried, deep to shallow.

    Raises:
        UserError: A fixed position outside the chain.
    """
    name = next(iter(modules.values())).source.name
    first = settings.position if settings.name == "fixed" else 0
    deeper = [] if settings.name == "fixed" else range(num_positions(target) - 1, 0, -1)
    similarities = measure_similarities(target, modules, kept, val, precision)
    is_tuned = bool((train.labels < len(kept)).any())

    def attempt(keep: float, position: int) -> PositionResult:
        clone = modules[keep]
        at = Clone(clone.source, clone.classes, clone.gates, position)
        row = _try_position(target, at, kept, train, val, settings, seed, precision)
        return replace(row, keep=keep, sim_cloned=similarities[keep][0], sim_other=similarities[keep][1])

    with progress(f"positions for {name}", len(modules) + len(deeper)) as advance:
        rows = []
        for keep in modules:
            rows.append(attempt(keep, first))
            advance()
        (chosen,) = choose([rows], settings, is_strict=not is_tuned)
        keeps = dict.fromkeys([chosen.keep, min(modules)] if is_limited else [chosen.keep])
        for position in deeper:
            rows += [attempt(keep, position) for keep in keeps]
            advance()
    return sorted(rows, key=lambda row: (-row.position, -row.keep))


def choose(
    rows: Sequence[Sequence[PositionResult]],
    settings: InsertionSettings,
    budget: AddedBudget | None = None,
    *,
    is_strict: bool = False,
) -> tuple[PositionResult, ...]:
    """One row per source: the best that fits the budget together.

    ``search`` takes the least sum of losses. ``tolerance`` and ``fixed`` take, of the choices whose sum is at most
    ``settings.tolerance`` times the least and whose accuracies are at most ``MOST_LOST`` below those there, the ones
    with the most local modules, and of these the one that adds the fewest MACs.

    Args:
        rows: By source.
        settings: How to choose.
        budget: What the chosen may add together.
        is_strict: The losses are distances from the source, not cross-entropies.

    Raises:
        UserError: Nothing fits the budget; with the nearest.
    """
    budget = budget or AddedBudget()
    tables = [_front(table) for table in rows]
    while math.prod(map(len, tables)) > MAX_COMBINATIONS:
        longest = max(tables, key=len)
        longest.remove(max(longest, key=lambda row: row.loss))
    combinations = [(found, *_sums(found)) for found in itertools.product(*tables)]
    fitting = [
        found
        for found in combinations
        if (budget.max_macs is None or found[2] <= budget.max_macs)
        and (budget.max_params is None or found[3] <= budget.max_params)
    ]
    if not fitting:
        _, _, macs, params = min(
            combinations,
            key=lambda found: max(found[2] / (budget.max_macs or math.inf), found[3] / (budget.max_params or math.inf)),
        )
        asked = [
            f"budget.{key}={value}"
            for key, value in (("max_macs", budget.max_macs), ("max_params", budget.max_params))
            if value is not None
        ]
        raise UserError(
            f"{' '.join(asked)}: no clones add so little; the nearest add {macs:,} MACs and {params:,} parameters: "
            "type " + " ".join(f"{text.split('=')[0]}={macs if 'macs' in text else params}" for text in asked)
        )
    least = min(loss for _, loss, _, _ in fitting)
    if settings.name == "search":
        return min(fitting, key=lambda found: (found[1], found[2], [row.position for row in found[0]]))[0]
    bound = settings.tolerance * max(least, len(tables) * (STRICT_FLOOR if is_strict else LOSS_FLOOR))
    best = _accuracy(min(fitting, key=lambda found: found[1])[0])
    near = [found for found in fitting if found[1] <= bound and (is_strict or _accuracy(found[0]) >= best - MOST_LOST)]
    return min(near, key=lambda found: (-sum(row.is_local for row in found[0]), found[2], found[3], found[1]))[0]


def _front(table: Sequence[PositionResult]) -> list[PositionResult]:
    """The rows that no other beats in loss, costs and locality at once."""

    def beats(a: PositionResult, b: PositionResult) -> bool:
        pairs = [(a.loss, b.loss), (a.added_macs, b.added_macs), (a.added_params, b.added_params)]
        pairs += [(not a.is_local, not b.is_local), (-a.accuracy, -b.accuracy)]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return [row for row in table if not any(beats(other, row) for other in table)]


def on_front(row: PositionResult, table: Sequence[PositionResult]) -> bool:
    """Whether no other row has both less loss and fewer added MACs, or one of them with the other the same."""
    return not any(
        other.loss <= row.loss
        and other.added_macs <= row.added_macs
        and (other.loss < row.loss or other.added_macs < row.added_macs)
        for other in table
    )


def _accuracy(found: Sequence[PositionResult]) -> float:
    return sum(row.accuracy for row in found) / len(found)


def _sums(found: Sequence[PositionResult]) -> tuple[float, int, int]:
    return sum(row.loss for row in found), sum(row.added_macs for row in found), sum(row.added_params for row in found)


@torch.no_grad()
def measure_similarities(
    target: FrozenNetwork,
    modules: Mapping[float, Clone],
    kept: Sequence[str],
    val: Samples,
    precision: torch.dtype | None = None,
) -> dict[float, tuple[float, float | None]]:
    """By share: cosine of the module's logits with the source's on its cloned classes, and on its others."""
    clone = next(iter(modules.values()))
    source, names = clone.source, [*kept, *clone.classes]
    known = torch.tensor([name in source.classes for name in names]).to(val.labels.device)[val.labels]
    images = convert(val.images[known], target.input, source.input)
    is_cloned = val.labels[known] >= len(kept)
    whole = run_in_batches(source.logits, images, batch_size=BATCH_SIZE, precision=precision)
    found = {}
    for keep, module in modules.items():
        read = in_precision(lambda x, module=module: module.features(x, 0), precision)
        cosines = centred_cosine(source.classify(run_in_batches(read, images, batch_size=BATCH_SIZE)), whole)
        sides = [cosines[side].mean().item() if side.any() else None for side in (is_cloned, ~is_cloned)]
        found[keep] = (1.0 if sides[0] is None else sides[0], sides[1])
    return found


def short_tuning(
    network: ClonedNetwork,
    samples: Samples,
    settings: InsertionSettings,
    *,
    seed: int,
    precision: torch.dtype | None = None,
) -> None:
    """Trains adapters and F_c for a few epochs and then solves F_c, in place.

    All that lies in front of the adapters is computed once; without an adapter F_c alone is solved.
    """
    if any(True for _ in network.adapters.parameters()):
        _train(network, samples, settings, seed, precision)
    solve_network_head(network, samples, precision)


def _train(
    network: ClonedNetwork, samples: Samples, settings: InsertionSettings, seed: int, precision: torch.dtype | None
) -> None:
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


def _try_position(
    target: FrozenNetwork,
    clone: Clone,
    kept: Sequence[str],
    train: Samples,
    val: Samples,
    settings: InsertionSettings,
    seed: int,
    precision: torch.dtype | None,
) -> PositionResult:
    started = time.perf_counter()
    fit = fit_adapter(target, clone, train.images, kernel_size=settings.kernel_size, seed=seed)
    classes = [*kept, *clone.classes]
    network = ClonedNetwork(target, classes, [clone], [fit.adapter if fit else None]).to(train.images.device)
    is_tuned = bool((train.labels < len(kept)).any())
    if is_tuned:
        short_tuning(network, train, settings, seed=seed, precision=precision)
    with torch.no_grad():
        features = network_features(network, val.images, precision)
        logits = network.head(features)
    if is_tuned:
        loss = balanced_cross_entropy(logits, val.labels, class_weights(val.labels, len(classes))).item()
    else:
        loss = _distance_from_source(target, clone, features, val, len(kept))
    if not math.isfinite(loss):
        raise UserError(
            f"insertion of {clone.source.name!r} at {clone.position}: the validation loss is {loss}; lower "
            "insertion.learning_rate, or check the weights of target and source"
        )
    (added,) = added_costs(network)
    accuracies = accuracies_of_logits(logits, val.labels, len(classes))
    return PositionResult(
        source=clone.source.name,
        position=clone.position,
        source_position=source_position(target, clone.source, clone.position),
        loss=loss,
        val_original=mean(accuracies[: len(kept)]),
        val_cloned=mean(accuracies[len(kept) :]),
        num_bytes=num_bytes(network),
        kernel_size=fit.adapter.kernel_size if fit else 0,
        seconds=time.perf_counter() - started,
        added_params=added.num_params,
        added_macs=added.macs,
    )


@torch.no_grad()
def _distance_from_source(target: FrozenNetwork, clone: Clone, features: Tensor, val: Samples, num_kept: int) -> float:
    """One minus the mean cosine of the graft's logits with the source's, on samples of the cloned classes."""
    source, cloned = clone.source, val.labels >= num_kept
    images = convert(val.images[cloned], target.input, source.input)
    whole = run_in_batches(source.logits, images, batch_size=BATCH_SIZE)
    grafted = source.classify(features[cloned][:, target.num_features :])
    return 1 - centred_cosine(grafted, whole).mean().item()


def check_position(target: FrozenNetwork, settings: InsertionSettings) -> None:
    """Refuses a fixed position outside the target's chain."""
    if settings.name == "fixed" and not 0 <= settings.position < num_positions(target):
        raise UserError(
            f"insertion.position={settings.position} is outside of {target.name!r}; "
            f"allowed: 0 (the input image) to {num_positions(target) - 1} (the input of the head)"
        )
