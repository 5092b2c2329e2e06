"""What is learnt without training: adapters by ridge regression, F_c by a convex problem or by calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def solve_network_head(network: ClonedNetwork, samples: Iterable[Samples], val: Samples | None = None) -> bool:
    """Solves F_c on all samples, anchored at its closed-form initialisation (``cloning.head``); in place.

    With validation samples it is solved a second time with a teacher, the network with whole sources at the image whose
    F_c is solved on the same samples, and what has the lower class-balanced loss on them is taken.

    Differs from the paper: there F_c is trained on labels. A few images of a class say little of how near it is to
    others, and the whole sources, which are at hand, say it.

    Args:
        network: Whose F_c is solved.
        samples: They may come part by part: only the features of all are there at once.
        val: Validation samples.

    Returns:
        Whether it had a teacher.
    """
    device, networks = network.head.weight.device, [network]
    if val is not None:
        networks.append(network.with_whole_sources().to(device))
    features, labels = [[] for _ in networks], []
    for part in samples:
        part = part.to(device)
        labels.append(part.labels)
        for given, found in zip(networks, features, strict=True):
            found.append(network_features(given, part.images))
    read, labels, start = [torch.cat(found) for found in features], torch.cat(labels), network.initial_head()
    heads = [solve_head(read[0], labels, *start)]
    best = 0
    if val is not None:
        val = val.to(device)
        teacher = solve_head(read[1], labels, *networks[1].initial_head(), least_gradient=NEARLY_SOLVED)
        heads.append(solve_head(read[0], labels, *start, teacher=F.linear(read[1], *teacher)))
        seen, weights = network_features(network, val.images), class_weights(val.labels, len(network.classes))
        losses = [balanced_cross_entropy(F.linear(seen, *head), val.labels, weights).item() for head in heads]
        best = losses.index(min(losses))
    with torch.no_grad():
        network.head.weight.copy_(heads[best][0])
        network.head.bias.copy_(heads[best][1])
    return best == 1


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
        network.head.weight.copy_(solved[0])
        network.head.bias.copy_(solved[1])
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
    with torch.no_grad():
        found = calibrated_head(features, samples.labels, network.head.weight, network.head.bias, network.owners)
        network.head.weight.copy_(found[0])
        network.head.bias.copy_(found[1])


def network_features(network: ClonedNetwork, images: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """What F_c reads, (n, d), for images on the network's device; ``precision`` as in ``run_in_batches``."""
    return run_in_batches(network.forward_features, images, batch_size=BATCH_SIZE, precision=precision)


def is_without_originals(network: ClonedNetwork, labels: Tensor) -> bool:
    """Whether none of the labels (n,) is of a class that the target keeps, while it keeps some."""
    kept = [network.classes.index(name) for name in network.kept_classes]
    return bool(kept) and not any(bool((labels == label).any()) for label in kept)
