"""Insertion: fitting a graft at a position, and the search for the position from deep to shallow.

Source: Partial Network Cloning (arXiv 2303.10597), Insert(.): every position is tuned shortly, and the one whose loss
converges lowest wins.

Differs from the paper: F_c is solved to convergence at the end of the short tuning, and the loss is that of validation
images. The loss of the few samples tuned on prefers deep positions, where wide adapters learn them by heart; besides,
the networks of the zoo may have been trained on these very images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloning.frozen import FrozenNetwork, convert
from cloning.head import balanced_cross_entropy, class_weights, solve_head
from cloning.network import Clone, ClonedNetwork, num_positions, source_position
from cloning.settings import InsertionSettings
from zoo.errors import UserError
from zoo.stitching.adapters import AdapterFit, closed_form_adapter

log = logging.getLogger(__name__)

_CHUNK = 256


@dataclass(frozen=True)
class Samples:
    """Images preprocessed for the target (n, C, H, W) and labels (n,) by the cloned network's classes."""

    images: Tensor
    labels: Tensor

    def of(self, labels: Sequence[int]) -> Samples:
        """Only the samples of some labels, renumbered in the order given."""
        index = torch.full((int(max([*labels, *self.labels.tolist(), 0])) + 1,), -1)
        index[list(labels)] = torch.arange(len(labels))
        renamed = index[self.labels]
        return Samples(self.images[renamed >= 0], renamed[renamed >= 0])


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


def fit_adapter(
    target: FrozenNetwork, clone: Clone, images: Tensor, *, kernel_size: int = 0, seed: int = 0
) -> AdapterFit | None:
    """Ridge regression from the target's features at the position to what the *masked* source makes there itself.

    Args:
        target: The network that receives.
        clone: Whose gates and position count.
        images: (n, C, H, W) preprocessed for the target.
        kernel_size: 1, 3, or 0 for the better by cross-validation.
        seed: Of the folds.

    Returns:
        The fit, or ``None`` at position 0, where no adapter is needed.
    """
    if clone.position == 0:
        return None
    start = source_position(target, clone.source, clone.position)
    with torch.no_grad():
        inputs = [target.features_at(clone.position, part) for part in images.split(_CHUNK)]
        wanted = [
            clone.source.features_at(start, convert(part, target.input, clone.source.input), gates=clone.gates)
            for part in images.split(_CHUNK)
        ]
    return closed_form_adapter(
        target.chain.signal(clone.position),
        clone.source.chain.signal(start),
        torch.cat(inputs),
        torch.cat(wanted),
        kernel_size=kernel_size or "auto",
        seed=seed,
    )


def solve_network_head(network: ClonedNetwork, samples: Samples) -> None:
    """Solves F_c on the samples, anchored at its closed-form initialisation (``cloning.head``); in place."""
    solved = solve_head(network_features(network, samples.images), samples.labels, *network.initial_head())
    with torch.no_grad():
        network.head.weight.copy_(solved[0])
        network.head.bias.copy_(solved[1])


@torch.no_grad()
def network_features(network: ClonedNetwork, images: Tensor) -> Tensor:
    """What F_c reads, (n, d)."""
    return torch.cat([network.forward_features(part) for part in images.split(_CHUNK)])


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
    for position in positions:
        at = Clone(clone.source, clone.classes, clone.gates, position)
        rows.append(_try_position(target, at, kept, train, val, settings, seed))
        log.info(
            "insertion of %s at %d: loss %.4f, validation %.3f / %.3f",
            *(clone.source.name, position, rows[-1].loss, rows[-1].val_original, rows[-1].val_cloned),
        )
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
    with torch.no_grad():
        packed = torch.cat([prefix(part) for part in samples.images.split(_CHUNK)])
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


@torch.no_grad()
def balanced_loss(network: ClonedNetwork, samples: Samples) -> float:
    """Class-balanced cross-entropy."""
    logits = network.head(network_features(network, samples.images))
    return balanced_cross_entropy(logits, samples.labels, class_weights(samples.labels, len(network.classes))).item()


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
    if bool((train.labels < len(kept)).any()):
        short_tuning(network, train, settings, seed=seed)
        loss = balanced_loss(network, val)
    else:
        loss = fit.error if fit else 0.0
    accuracies = class_accuracies(network, val)
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


def num_bytes(network: ClonedNetwork) -> int:
    """What travels: bits of the gates, and adapters and head in float32."""
    learnt = 4 * sum(parameter.numel() for part in (network.adapters, network.head) for parameter in part.parameters())
    return learnt + sum(-(-len(clone.gates) // 8) for clone in network.clones)


@torch.no_grad()
def class_accuracies(network: ClonedNetwork, samples: Samples) -> list[float | None]:
    """Share of each class's samples that the network names right; ``None`` for a class without samples."""
    found = network.head(network_features(network, samples.images)).argmax(1) == samples.labels
    found = [found[samples.labels == label] for label in range(len(network.classes))]
    return [part.double().mean().item() if len(part) else None for part in found]


def mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are there; 0 without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else 0.0


def check_position(target: FrozenNetwork, settings: InsertionSettings) -> None:
    """Refuses a fixed position outside the target's chain."""
    if settings.name == "fixed" and not 0 <= settings.position < num_positions(target):
        raise UserError(
            f"insertion.position={settings.position} is outside of {target.name!r}; "
            f"allowed: 0 (the input image) to {num_positions(target) - 1} (the input of the head)"
        )
