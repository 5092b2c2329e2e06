"""Localisation: which gates of a source stay open, so that the masked source behaves as the source on some classes.

Source: Partial Network Cloning (arXiv 2303.10597), Local(.); the article leaves its equations out, these are this
project's reading. With m the gates, M_f(x; m) the masked source, G the local linear models of the source, and pi the
proximities of the LIME neighbours x_k = b_k x:

    min_a  E[pi_k |M_f(x_k; m) - G(b_k)|^2] / Var(G)  +  10 r_t relu(mean m - keep)  +  0.03 mean m
    m = sigmoid(tau_t a)

where the temperature tau_t rises from 1 to 5 and the weight r_t of the density from 0 to 1 over the first half. Without
the rising temperature the soft gates fit well, but the cut to hard gates that follows leaves the module at chance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.gates import GateSite, gated, num_gates, split_gates
from cloning.neighbourhoods import Neighbourhoods, draw_neighbourhoods, fit_surrogates, surrogate_outputs
from cloning.samples import BATCH_SIZE
from cloning.settings import LocalisationSettings
from zoo.chain import Chain
from zoo.chain.batches import run_in_batches
from zoo.chain.modes import eval_mode
from zoo.errors import UserError

log = logging.getLogger(__name__)

FINAL_TEMPERATURE = 5.0
DENSITY_WEIGHT = 10.0
SPARSITY_WEIGHT = 0.03


@dataclass(frozen=True)
class Localisation:
    """The module inside a source.

    Attributes:
        gates: (n,) float32 of 0 and 1, in the order of the sites.
        scores: (n,) float32, by which the gates were chosen; larger is more important.
    """

    gates: Tensor
    scores: Tensor


@dataclass(frozen=True)
class SourceEvidence:
    """What a localiser sees of a source; see ``localise``."""

    network: nn.Module
    sites: Sequence[GateSite]
    images: Tensor
    labels: Tensor
    black: Tensor
    settings: LocalisationSettings


def localise(
    chain: Chain,
    sites: Sequence[GateSite],
    images: Tensor,
    labels: Tensor,
    settings: LocalisationSettings,
    *,
    black: Tensor,
    seed: int,
) -> Localisation:
    """Scores the gates of a source on images of the cloned classes and keeps the best.

    Args:
        chain: The source; it is left as it was.
        sites: Where it has gates.
        images: (n, C, H, W) of the cloned classes, preprocessed for the source.
        labels: (n,) the source's own output indices, read by ``taylor`` alone.
        settings: Which localiser, and how many gates stay open.
        black: (C,) value of a black pixel after the preprocessing.
        seed: Of the neighbourhoods, the batches and the random control.

    Raises:
        UserError: The source has no gates, or there are no images.
    """
    if not sites:
        raise UserError(
            f"{chain.name!r} has no unit that a gate could switch off; type localisation=none, or another source"
        )
    if not len(images):
        raise UserError(f"{chain.name!r}: no image of the cloned classes to localise on; add some, or clone others")
    generator = torch.Generator().manual_seed(seed)
    if len(images) > settings.num_images:
        chosen = torch.randperm(len(images), generator=generator)[: settings.num_images]
        images, labels = images[chosen], labels[chosen]
    with eval_mode(chain.network):
        evidence = SourceEvidence(chain.network, sites, images, labels, black, settings)
        scores = LOCALISERS[settings.name](evidence, generator)
    if not torch.isfinite(scores).all():
        raise UserError(
            f"{chain.name!r}: the scores of its gates are not finite, since its outputs on images of the cloned "
            "classes hold NaN or infinity; repair its weights, or take another source"
        )
    gates = hard_gates(scores, sites, settings)
    if settings.name != "none" and gates.sum() > round(settings.keep * len(gates)):
        log.warning(
            "%s: localisation.min_per_layer=%d keeps %d of %d gates open, more than localisation.keep=%g",
            *(chain.name, settings.min_per_layer, int(gates.sum()), len(gates), settings.keep),
        )
    return Localisation(gates, scores)


def hard_gates(scores: Tensor, sites: Sequence[GateSite], settings: LocalisationSettings) -> Tensor:
    """Opens the best gates of the whole network, and in every layer at least its own best few.

    Args:
        scores: (n,); ties go to the gate that comes first.
        sites: The layers.
        settings: ``keep`` is the share of all gates that stays open, ``min_per_layer`` the least number in a layer;
            ``none`` keeps everything.

    Returns:
        (n,) float32 of 0 and 1.
    """
    if settings.name == "none":
        return torch.ones(num_gates(sites))
    promoted = scores.double().clone()
    for part in split_gates(promoted, sites):
        part[part.argsort(descending=True, stable=True)[: settings.min_per_layer]] = torch.inf
    num_kept = max(round(settings.keep * len(scores)), int(promoted.isinf().sum()))
    gates = torch.zeros(len(scores))
    gates[promoted.argsort(descending=True, stable=True)[:num_kept]] = 1
    return gates


def module_loss(outputs: Tensor, wanted: Tensor, proximity: Tensor, variance: Tensor) -> Tensor:
    """Proximity-weighted squared error of the module's logits (b, C), relative to the variance of what is wanted."""
    return (proximity * (outputs - wanted).square().sum(1)).mean() / variance


def fitted_scores(evidence: SourceEvidence, generator: torch.Generator) -> Tensor:
    """The gates' logits after the optimisation of the module's docstring; ``direct`` takes the source itself for G."""
    network, sites, images, black = evidence.network, evidence.sites, evidence.images, evidence.black
    settings = evidence.settings
    grid = (min(settings.patch_grid, images.shape[2]), min(settings.patch_grid, images.shape[3]))
    around = draw_neighbourhoods(len(images), settings.num_neighbours, grid, generator)
    wanted = _source_outputs(network, around, images, black)
    if settings.name == "lime":
        wanted = surrogate_outputs(around, fit_surrogates(around, wanted)).to(wanted)
    wanted = wanted.flatten(0, 1).to(images.device)
    proximity = around.proximity.flatten().to(wanted)
    variance = wanted.var(0, unbiased=False).sum().clamp_min(1e-12)

    logits = (2 + 0.01 * torch.randn(num_gates(sites), generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=settings.learning_rate)
    for step in range(settings.num_steps):
        progress = step / max(1, settings.num_steps - 1)
        index = torch.randint(len(wanted), (settings.batch_size,), generator=generator)
        gates = torch.sigmoid((1 + (FINAL_TEMPERATURE - 1) * progress) * logits)
        with gated(network, sites, gates):
            outputs = network(around.images(images, index, black))
        density = gates.mean().to(outputs.device)
        loss = (
            module_loss(outputs, wanted[index], proximity[index], variance)
            + DENSITY_WEIGHT * min(1.0, 2 * progress) * F.relu(density - settings.keep)
            + SPARSITY_WEIGHT * density
        )
        (logits.grad,) = torch.autograd.grad(loss, logits)
        optimizer.step()
    return logits.detach()


def _source_outputs(network: nn.Module, around: Neighbourhoods, images: Tensor, black: Tensor) -> Tensor:
    """The source's logits on all neighbours: (n, K, C)."""
    num_neighbours = around.patches.shape[1]
    index = torch.arange(len(images) * num_neighbours)
    outputs = run_in_batches(lambda part: network(around.images(images, part, black)), index, batch_size=BATCH_SIZE)
    return outputs.unflatten(0, (len(images), num_neighbours))


def taylor_scores(evidence: SourceEvidence, generator: torch.Generator) -> Tensor:
    """Mean over the images of |dL/dm| at open gates, L the cross-entropy; each layer scaled to norm 1.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (arXiv 1611.06440).
    """
    network, sites = evidence.network, evidence.sites
    total = torch.zeros(num_gates(sites))
    for image, label in zip(evidence.images.split(1), evidence.labels.split(1), strict=True):
        gates = torch.ones(len(total), requires_grad=True)
        with gated(network, sites, gates):
            loss = F.cross_entropy(network(image), label)
        total += torch.autograd.grad(loss, gates)[0].abs()
    return _scaled_by_layer(total, sites)


def magnitude_scores(evidence: SourceEvidence, generator: torch.Generator) -> Tensor:
    """Mean absolute activation behind each gate; each layer scaled to norm 1."""
    network, sites = evidence.network, evidence.sites
    sums = [torch.zeros(site.num_gates) for site in sites]

    def measure(site: GateSite, total: Tensor) -> Callable[[Tensor], None]:
        def add(activation: Tensor) -> None:
            channels = activation.movedim(site.axis, -1).flatten(0, -2).abs().mean(0)
            sums = channels.unflatten(0, (site.num_gates, site.group_size)).mean(1) * len(activation)
            total.add_(sums.to(total.device))

        return add

    handles = []
    for site, total in zip(sites, sums, strict=True):
        module, add = network.get_submodule(site.path), measure(site, total)
        if site.side == "output":
            handles.append(module.register_forward_hook(lambda module, args, output, add=add: add(output)))
        else:
            handles.append(module.register_forward_pre_hook(lambda module, args, add=add: add(args[0])))
    try:
        run_in_batches(network, evidence.images, batch_size=BATCH_SIZE)
    finally:
        for handle in handles:
            handle.remove()
    return _scaled_by_layer(torch.cat(sums), sites)


def _scaled_by_layer(scores: Tensor, sites: Sequence[GateSite]) -> Tensor:
    parts = split_gates(scores, sites)
    return torch.cat([part / part.norm().clamp_min(1e-12) for part in parts])


LOCALISERS: Mapping[str, Callable[[SourceEvidence, torch.Generator], Tensor]] = {
    "lime": fitted_scores,
    "direct": fitted_scores,
    "taylor": taylor_scores,
    "magnitude": magnitude_scores,
    "random": lambda evidence, generator: torch.rand(num_gates(evidence.sites), generator=generator),
    "none": lambda evidence, generator: torch.ones(num_gates(evidence.sites)),
}
"""By name: a score per gate, (n,) float32, larger is more important."""
