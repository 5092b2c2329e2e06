"""What is learnt without training: adapters by ridge regression, F_c by a convex problem or by calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.clone import Clone, source_position
from cloning.frozen import FrozenNetwork
from cloning.head import (
    NEARLY_SOLVED,
    balanced_cross_entropy,
    calibrated_head,
    calibrated_logits,
    class_weights,
    solve_head,
)
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from zoo.chain import Chain
from zoo.chain.batches import Rows, require_finite, run_in_batches, run_rows
from zoo.conversion import convert
from zoo.stitching.adapters import AdapterFit, closed_form_adapter


def fit_adapter(
    target: FrozenNetwork, clone: Clone, images: Rows, *, kernel_size: int | Literal["auto"] = "auto", seed: int = 0
) -> AdapterFit | None:
    """Ridge regression from the target's features at the position to what the *masked* source makes there itself.

    Args:
        target: The network that receives.
        clone: Whose gates and position count.
        images: (n, C, H, W) preprocessed for the target, in memory or in batches.
        kernel_size: 1, 3, or ``auto`` for the better by cross-validation.
        seed: Of the folds.

    Returns:
        The fit, or ``None`` at position 0, where no adapter is needed.
    """
    if clone.position == 0:
        return None
    source = clone.source
    start = source_position(target, source, clone.position)

    def finite(chain: Chain, cut: int) -> Callable[[Tensor], Tensor]:
        return partial(require_finite, chain=chain, cut=cut)

    def incoming(part: Tensor) -> Tensor:
        return target.features_at(clone.position, part)

    def wanted(part: Tensor) -> Tensor:
        return source.features_at(start, convert(part, target.input, source.input), gates=clone.gates)

    return fit_adapter_to(
        target,
        clone,
        run_rows(incoming, images, batch_size=BATCH_SIZE, check=finite(target.chain, clone.position)),
        run_rows(wanted, images, batch_size=BATCH_SIZE, check=finite(source.chain, start)),
        kernel_size=kernel_size,
        seed=seed,
    )


def fit_adapter_to(
    target: FrozenNetwork,
    clone: Clone,
    incoming: Rows,
    wanted: Rows,
    *,
    kernel_size: int | Literal["auto"],
    seed: int,
) -> AdapterFit:
    """The same, of what comes in at the clone's position and what the masked source makes there itself, (n, ...)."""
    return closed_form_adapter(
        target.chain.signal(clone.position),
        clone.source.chain.signal(source_position(target, clone.source, clone.position)),
        incoming,
        wanted,
        kernel_size=kernel_size,
        seed=seed,
    )


def with_fitted_adapters(network: ClonedNetwork, images: Rows, *, seed: int) -> ClonedNetwork:
    """The network with all adapters fitted in closed form to images (n, C, H, W) preprocessed for its target."""
    adapters = []
    for clone, adapter in zip(network.clones, network.adapters, strict=True):
        kernel_size = getattr(adapter, "kernel_size", "auto")
        fit = fit_adapter(network.target, clone, images, kernel_size=kernel_size, seed=seed)
        adapters.append(fit.adapter if fit else None)
    return ClonedNetwork(network.target, network.classes, network.clones, adapters, network.head_cuts)


def solve_network_head(network: ClonedNetwork, samples: Iterable[Samples]) -> None:
    """Solves F_c on all samples, anchored at its closed-form initialisation (``cloning.head``); in place.

    They may come part by part: only the features of all are there at once.
    """
    (features,), labels = _read((network,), samples)
    network.set_head(*solve_head(features, labels, *network.initial_head()))


def solve_taught_head(network: ClonedNetwork, samples: Iterable[Samples], val: Samples) -> bool:
    """The same, and once more with a teacher; of both heads the one of lower class-balanced validation loss stays.

    The teacher is the network with whole sources at the image, whose F_c is solved on the same samples.

    Differs from the paper: there F_c is trained on labels. A few images of a class say little of how near it is to
    others, and the whole sources, which are at hand, say it.

    Args:
        network: Whose F_c is solved.
        samples: They may come part by part: only the features of all are there at once.
        val: Validation samples.

    Returns:
        Whether the head that stays had the teacher.
    """
    whole = network.with_whole_sources().to(network.head.weight.device)
    (features, whole_features), labels = _read((network, whole), samples)
    teacher = solve_head(whole_features, labels, *whole.initial_head(), least_gradient=NEARLY_SOLVED)
    start, logits = network.initial_head(), F.linear(whole_features, *teacher)
    plain, taught = (solve_head(features, labels, *start, teacher=given) for given in (None, logits))
    val = val.to(network.head.weight.device)
    seen, weights = network_features(network, val.images), class_weights(val.labels, len(network.classes))
    plain_loss, taught_loss = (
        balanced_cross_entropy(F.linear(seen, *head), val.labels, weights).item() for head in (plain, taught)
    )
    network.set_head(*(taught if taught_loss < plain_loss else plain))
    return taught_loss < plain_loss


def _read(networks: Sequence[ClonedNetwork], samples: Iterable[Samples]) -> tuple[list[Tensor], Tensor]:
    """What the heads of some networks read of all samples, (n, d) each, and their labels (n,)."""
    features, labels = [[] for _ in networks], []
    for part in samples:
        part = part.to(networks[0].head.weight.device)
        labels.append(part.labels)
        for network, found in zip(networks, features, strict=True):
            found.append(network_features(network, part.images))
    return [torch.cat(found) for found in features], torch.cat(labels)


@torch.no_grad()
def compared_logits(
    network: ClonedNetwork, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]
) -> tuple[Tensor, float]:
    """What a network says on validation samples, with F_c solved nearly enough to compare it with others; in place.

    Without training samples of the target's classes F_c stays, and its logits are calibrated on the validation samples.

    Args:
        network: On the features' device; its F_c need not be solved.
        train: What F_c reads (n, d) of the correction samples, and their labels (n,).
        val: The same of validation samples.

    Returns:
        Logits (n, C) and their class-balanced cross-entropy.
    """
    start, (features, labels) = network.initial_head(), val
    if is_without_originals(network, train[1]):
        logits = calibrated_logits(features, labels, *start, network.owners)
    else:
        solved = solve_head(*train, *start, least_gradient=NEARLY_SOLVED)
        network.set_head(*solved)
        logits = network.head(features)
    weights = class_weights(labels, len(network.classes))
    return logits, balanced_cross_entropy(logits, labels, weights).item()


def calibrate_network_head(network: ClonedNetwork, samples: Samples) -> None:
    """A scale and an offset for the rows of each source in F_c, fitted on the samples; in place.

    Differs from the paper: for want of samples of the target's classes to solve F_c on. Logits of networks that were
    trained apart differ in scale and offset, and so badly that half of the answers can be wrong for that alone.
    """
    samples = samples.to(network.head.weight.device)
    features = network_features(network, samples.images)
    weight, bias = network.head.weight.detach(), network.head.bias.detach()
    network.set_head(*calibrated_head(features, samples.labels, weight, bias, network.owners))


def network_features(network: ClonedNetwork, images: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """What F_c reads, (n, d), for images on the network's device; ``precision`` as in ``run_in_batches``."""
    return run_in_batches(network.forward_features, images, batch_size=BATCH_SIZE, precision=precision)


def is_without_originals(network: ClonedNetwork, labels: Tensor) -> bool:
    """Whether none of the labels (n,) is of a class that the target keeps, while it keeps some."""
    kept = [network.classes.index(name) for name in network.kept_classes]
    return bool(kept) and not any(bool((labels == label).any()) for label in kept)
