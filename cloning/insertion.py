"""Insertion: the search for the position of a graft, from deep to shallow, by a short tuning at each.

Source: Partial Network Cloning (arXiv 2303.10597), Insert(.): every position is tuned shortly, and the one whose loss
converges lowest wins.

Differs from the paper: F_c is solved to convergence at the end of the short tuning, and the loss is that of validation
images. The loss of the few samples tuned on prefers deep positions, where wide adapters learn them by heart; besides,
the networks of the zoo may have been trained on these very images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cloning.clone import Clone, num_positions, source_position
from cloning.fitting import fit_adapter, network_features, solve_network_head
from cloning.frozen import FrozenNetwork
from cloning.head import balanced_cross_entropy, class_weights
from cloning.measures import accuracies_of_logits, mean, num_bytes
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from cloning.settings import InsertionSettings
from zoo.chain.batches import run_in_batches
from zoo.errors import UserError
from zoo.progress import progress


@dataclass(frozen=True)
class PositionResult:
    """One row of the table of positions.

    Attributes:
        source: Name of the source.
        position: The cut R of the target.
        source_position: The cut of the source that it feeds.
        loss: What the search minimises: class-balanced cross-entropy of the validation samples after the short tuning;
            without correction samples of the target's classes the share of the masked source's features that the
            adapter cannot explain.
        val_original: Accuracy after the short tuning on the target's classes of the validation split, averaged over
            the classes; in [0, 1].
        val_cloned: The same for the cloned classes.
        num_bytes: Of what would travel: gates, adapter and head, in float32.
        kernel_size: Of the adapter, 0 where there is none.
        seconds: Wall time.
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


def search_position(
    target: FrozenNetwork,
    clone: Clone,
    kept: Sequence[str],
    train: Samples,
    val: Samples,
    settings: InsertionSettings,
    *,
    seed: int,
) -> tuple[int, list[PositionResult]]:
    """Tries the positions from the deepest to the image, with this one source alone.

    Args:
        target: The network that receives.
        clone: The module; its own position does not count.
        kept: The target's classes that stay.
        train: Correction samples, labelled by ``kept`` and then the clone's classes.
        val: Validation samples, labelled likewise.
        settings: How to search.
        seed: Of the order of batches.

    Returns:
        The position chosen, and a row per position tried.

    Raises:
        UserError: A fixed position outside the chain.
    """
    deepest = num_positions(target) - 1
    positions = [settings.position] if settings.name == "fixed" else range(deepest, -1, -1)
    rows = []
    with progress(f"positions for {clone.source.name}", len(positions)) as advance:
        for position in positions:
            at = Clone(clone.source, clone.classes, clone.gates, position)
            rows.append(_try_position(target, at, kept, train, val, settings, seed))
            advance()
    return choose_position(rows, settings), rows


def choose_position(rows: Sequence[PositionResult], settings: InsertionSettings) -> int:
    """The least loss, or with ``tolerance`` the deepest position whose loss is near the least; ties go shallow."""
    least = min(row.loss for row in rows)
    if settings.name == "tolerance":
        return max(row.position for row in rows if row.loss <= settings.tolerance * least)
    return min(row.position for row in rows if row.loss == least)


def short_tuning(network: ClonedNetwork, samples: Samples, settings: InsertionSettings, *, seed: int) -> None:
    """Trains adapters and F_c for a few epochs and then solves F_c, in place.

    All that lies in front of the adapters is computed once; without an adapter F_c alone is solved.
    """
    if any(True for _ in network.adapters.parameters()):
        _train(network, samples, settings, seed)
    solve_network_head(network, samples)


def _train(network: ClonedNetwork, samples: Samples, settings: InsertionSettings, seed: int) -> None:
    prefix, rest = network.frozen_prefix("freeze")
    packed = run_in_batches(prefix, samples.images, batch_size=BATCH_SIZE)
    weights = class_weights(samples.labels, len(network.classes)) * len(packed)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    num_batches = -(-len(packed) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_epochs * num_batches)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.num_epochs):
        for batch in torch.randperm(len(packed), generator=generator).tensor_split(num_batches):
            logits = network.head(rest(packed[batch]))
            loss = balanced_cross_entropy(logits, samples.labels[batch], weights[batch] / len(batch))
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
) -> PositionResult:
    started = time.perf_counter()
    fit = fit_adapter(target, clone, train.images, kernel_size=settings.kernel_size, seed=seed)
    classes = [*kept, *clone.classes]
    network = ClonedNetwork(target, classes, [clone], [fit.adapter if fit else None])
    is_tuned = bool((train.labels < len(kept)).any())
    if is_tuned:
        short_tuning(network, train, settings, seed=seed)
    with torch.no_grad():
        logits = network.head(network_features(network, val.images))
    if is_tuned:
        loss = balanced_cross_entropy(logits, val.labels, class_weights(val.labels, len(classes))).item()
    else:
        loss = fit.error if fit else 0.0
    if not math.isfinite(loss):
        raise UserError(
            f"insertion of {clone.source.name!r} at {clone.position}: the validation loss is {loss}; lower "
            "insertion.learning_rate, or check the weights of target and source"
        )
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
    )


def check_position(target: FrozenNetwork, settings: InsertionSettings) -> None:
    """Refuses a fixed position outside the target's chain."""
    if settings.name == "fixed" and not 0 <= settings.position < num_positions(target):
        raise UserError(
            f"insertion.position={settings.position} is outside of {target.name!r}; "
            f"allowed: 0 (the input image) to {num_positions(target) - 1} (the input of the head)"
        )
