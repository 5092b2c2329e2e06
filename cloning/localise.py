"""Localisation: which gates of a source stay open, so that it behaves as ever on some classes, and on these only.

Source: Partial Network Cloning (arXiv 2303.10597), Local(.); the article leaves its equations out, these are this
project's reading. With m the gates, c their shares of the MACs, M(x; m) the masked source, G the local linear models of
the source M(x), pi the proximities of the LIME neighbours x_k = b_k x, cos the cosine of logits about their mean, and y
images of other classes:

    min_a  E[pi_k (0.3 |M(x_k; m) - G(b_k)|^2 / Var(G) + 1 - cos(M(x_k; m), G(b_k)))]
           + w_t E[relu(cos(M(y; m), M(y)))]  +  10 r_t relu(c m - keep)  +  0.03 mean m
    m = sigmoid(tau_t a)

where the temperature tau_t rises from 1 to 5 and the weight r_t of the cost from 0 to 1 over the first stage. Smaller
shares go on from there, one stage each. The weight w_t is that of a constraint (dual ascent): it begins at 2 and moves
by 0.3 (cos - 0.3) a step, between 1 and 12, so that it grows while the module is more alike its source on other
classes. In the last two fifths of a stage the gates are rounded on the way forward, for it is hard gates that remain:
soft ones may fit well where their cut is at chance.

Differs from the paper: images of other classes are pushed away from the source. Without them a module of most families
answers on all classes as its source does. Where there are none, images of the cloned classes with their pieces in
disorder stand for them, and always come along.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.gates import GateSite, gated, num_gates, split_gates
from cloning.neighbourhoods import Neighbourhoods, draw_neighbourhoods, fit_surrogates, surrogate_outputs
from cloning.samples import BATCH_SIZE
from cloning.settings import LocalisationSettings
from zoo.chain import Chain
from zoo.chain.batches import in_precision, run_in_batches
from zoo.chain.modes import eval_mode
from zoo.errors import UserError

log = logging.getLogger(__name__)

FINAL_TEMPERATURE = 5.0
SQUARES_WEIGHT = 0.3
CONTRAST_WEIGHT = 2.0
"""At the start; it follows how alike module and source are on other classes, up to ``MOST_CONTRAST``."""

CONTRAST_RATE = 0.3
LEAST_CONTRAST, MOST_CONTRAST = 1.0, 12.0
MOST_ALIKE = 0.3
"""Mean cosine on images of other classes above which their weight grows from step to step, and below which it falls."""

DENSITY_WEIGHT = 10.0
SPARSITY_WEIGHT = 0.03
ROUNDED_FROM = 0.6
KEEPS = (0.65, 0.5, 0.35)
"""Shares that are tried where none is asked for, one after the other."""


@dataclass(frozen=True)
class Localisation:
    """The module inside a source.

    Attributes:
        gates: (n,) float32 of 0 and 1, in the order of the sites.
        scores: (n,) float32, by which the gates were chosen; larger is more important.
        keep: The share that was asked for.
    """

    gates: Tensor
    scores: Tensor
    keep: float


@dataclass(frozen=True)
class SourceEvidence:
    """What a localiser sees of a source; see ``localise``."""

    network: nn.Module
    sites: Sequence[GateSite]
    images: Tensor
    labels: Tensor
    black: Tensor
    settings: LocalisationSettings
    others: Tensor
    shares: Tensor
    keeps: Sequence[float]
    precision: torch.dtype | None = None

    @property
    def outputs(self) -> Callable[[Tensor], Tensor]:
        """The network, in the precision asked for."""
        return in_precision(self.network, self.precision)


def localise(
    chain: Chain,
    sites: Sequence[GateSite],
    images: Tensor,
    labels: Tensor,
    settings: LocalisationSettings,
    *,
    black: Tensor,
    seed: int,
    others: Tensor | None = None,
    macs: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> tuple[Localisation, ...]:
    """Scores the gates of a source on images of the cloned classes and keeps the best, once for every share.

    It computes where source and images are.

    Args:
        chain: The source; it is left as it was.
        sites: Where it has gates.
        images: (n, C, H, W) of the cloned classes, preprocessed for the source.
        labels: (n,) the source's own output indices, read by ``taylor`` alone.
        settings: Which localiser, and how many gates stay open.
        black: (C,) value of a black pixel after the preprocessing.
        seed: Of the neighbourhoods, the batches and the random control.
        others: (m, C, H, W) of other classes, which the module need not know, preprocessed likewise.
        macs: (n,) that each gate decides about; all the same if not given.
        precision: Of the source's products, as in ``run_in_batches``.

    Returns:
        One for ``settings.keep``, or for each of ``KEEPS``, largest first; on the CPU.

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
        chosen = torch.randperm(len(images), generator=generator)[: settings.num_images].to(images.device)
        images, labels = images[chosen], labels[chosen]
    shares = torch.ones(num_gates(sites)) if macs is None else macs.float()
    shares = shares / shares.sum() if shares.sum() > 0 else torch.full_like(shares, 1 / len(shares))
    keeps = (settings.keep,) if settings.keep is not None else KEEPS
    others = images[:0] if others is None else others
    with eval_mode(chain.network):
        evidence = SourceEvidence(
            chain.network, sites, images, labels, black, settings, others, shares, keeps, precision
        )
        found = [scores.cpu() for scores in LOCALISERS[settings.name](evidence, generator)]
    if not all(torch.isfinite(scores).all() for scores in found):
        raise UserError(
            f"{chain.name!r}: the scores of its gates are not finite, since its outputs on images of the cloned "
            "classes hold NaN or infinity; repair its weights, or take another source"
        )
    localised = []
    for keep, scores in zip(keeps, found, strict=True):
        gates = hard_gates(scores, sites, replace(settings, keep=keep), None if macs is None else shares)
        num_asked = round(keep * len(gates)) if macs is None else (gates * shares).sum() <= keep + 1e-6 and len(gates)
        if settings.name != "none" and settings.keep is not None and gates.sum() > num_asked:
            log.warning(
                "%s: localisation.min_per_layer=%d keeps %d of %d gates open, more than localisation.keep=%g",
                *(chain.name, settings.min_per_layer, int(gates.sum()), len(gates), keep),
            )
        localised.append(Localisation(gates, scores, keep))
    return tuple(localised)


def hard_gates(
    scores: Tensor, sites: Sequence[GateSite], settings: LocalisationSettings, shares: Tensor | None = None
) -> Tensor:
    """Opens the best gates of the whole network, and in every layer at least its own best few.

    Args:
        scores: (n,); ties go to the gate that comes first.
        sites: The layers.
        settings: ``keep`` is the share that stays open, ``min_per_layer`` the least number in a layer; ``none`` keeps
            everything.
        shares: (n,) of all costs together, of each gate; all the same if not given.

    Returns:
        (n,) float32 of 0 and 1.
    """
    if settings.name == "none":
        return torch.ones(num_gates(sites))
    keep = KEEPS[0] if settings.keep is None else settings.keep
    promoted = scores.double().clone()
    for part in split_gates(promoted, sites):
        part[part.argsort(descending=True, stable=True)[: settings.min_per_layer]] = torch.inf
    order = promoted.argsort(descending=True, stable=True)
    num_kept = round(keep * len(scores))
    if shares is not None:
        num_kept = int((shares[order].double().cumsum(0) <= keep + 1e-6).sum())
    gates = torch.zeros(len(scores))
    gates[order[: max(num_kept, int(promoted.isinf().sum()))]] = 1
    return gates


def module_loss(outputs: Tensor, wanted: Tensor, proximity: Tensor, variance: Tensor) -> Tensor:
    """Proximity-weighted squared error of the module's logits (b, C), relative to the variance of what is wanted."""
    return (proximity * (outputs - wanted).square().sum(1)).mean() / variance


def fitted_scores(evidence: SourceEvidence, generator: torch.Generator) -> list[Tensor]:
    """The gates' logits after the optimisation of the module's docstring; ``direct`` takes the source itself for G."""
    network, sites, images, black = evidence.network, evidence.sites, evidence.images, evidence.black
    settings, shares, device = evidence.settings, evidence.shares.to(images.device), images.device
    run = evidence.outputs
    grid = (min(settings.patch_grid, images.shape[2]), min(settings.patch_grid, images.shape[3]))
    around = draw_neighbourhoods(len(images), settings.num_neighbours, grid, generator, device)
    wanted = _source_outputs(run, around, images, black)
    if settings.name == "lime":
        wanted = surrogate_outputs(around, fit_surrogates(around, wanted)).to(wanted)
    wanted, proximity = wanted.flatten(0, 1), around.proximity.flatten().to(wanted)
    variance = wanted.var(0, unbiased=False).sum().clamp_min(1e-12)
    others = torch.cat([evidence.others, shuffled_pieces(images, generator)])
    unwanted = run_in_batches(run, others, batch_size=BATCH_SIZE)
    num_others = settings.batch_size * 3 // 8
    num_neighbours = settings.batch_size - num_others

    logits = (2 + 0.01 * torch.randn(num_gates(sites), generator=generator)).to(device).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=settings.learning_rate)
    found, contrast = [], CONTRAST_WEIGHT
    for stage, keep in enumerate(evidence.keeps):
        num_steps = settings.num_steps if stage == 0 else -(-settings.num_steps * 5 // 8)
        for step in range(num_steps):
            progress = step / max(1, num_steps - 1)
            heat = progress if stage == 0 else 1.0
            index = torch.randint(len(wanted), (num_neighbours,), generator=generator).to(device)
            other = torch.randint(len(others), (num_others,), generator=generator).to(device)
            soft = torch.sigmoid((1 + (FINAL_TEMPERATURE - 1) * heat) * logits)
            gates = soft if progress < ROUNDED_FROM else soft.round() + soft - soft.detach()
            with gated(network, sites, gates):
                outputs = run(torch.cat([around.images(images, index, black), others[other]]))
            inside, outside = outputs.split([num_neighbours, num_others])
            distance = 1 - centred_cosine(inside, wanted[index])
            loss = (
                SQUARES_WEIGHT * module_loss(inside, wanted[index], proximity[index], variance)
                + (proximity[index] * distance).mean()
                + DENSITY_WEIGHT * min(1.0, 2 * heat) * F.relu((shares * soft).sum() - keep)
                + SPARSITY_WEIGHT * soft.mean()
            )
            if num_others:
                alike = centred_cosine(outside, unwanted[other])
                loss = loss + contrast * F.relu(alike).mean()
                contrast += CONTRAST_RATE * (alike.detach().mean().item() - MOST_ALIKE)
                contrast = min(max(contrast, LEAST_CONTRAST), MOST_CONTRAST)
            (logits.grad,) = torch.autograd.grad(loss, logits)
            optimizer.step()
        found.append(logits.detach().clone())
    return found


def centred_cosine(a: Tensor, b: Tensor) -> Tensor:
    """(n,) cosines of the logits (n, C) of two networks about their means over the outputs."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def shuffled_pieces(images: Tensor, generator: torch.Generator, num_pieces: int = 4) -> Tensor:
    """Images (n, C, H, W) with their 4 x 4 pieces in disorder: of no class, and not far from those they are made of."""
    rows, columns = (min(num_pieces, side) for side in images.shape[2:])
    height, width = images.shape[2] // rows, images.shape[3] // columns
    found = images.clone()
    pieces = images[..., : rows * height, : columns * width]
    pieces = pieces.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.rand(len(images), rows * columns, generator=generator).argsort(1).to(images.device)
    pieces = pieces[torch.arange(len(images), device=images.device)[:, None], order].unflatten(1, (rows, columns))
    found[..., : rows * height, : columns * width] = pieces.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return found


def _source_outputs(run: Callable[[Tensor], Tensor], around: Neighbourhoods, images: Tensor, black: Tensor) -> Tensor:
    """The source's logits on all neighbours: (n, K, C)."""
    num_neighbours = around.patches.shape[1]
    index = torch.arange(len(images) * num_neighbours, device=images.device)
    outputs = run_in_batches(lambda part: run(around.images(images, part, black)), index, batch_size=BATCH_SIZE)
    return outputs.unflatten(0, (len(images), num_neighbours))


def taylor_scores(evidence: SourceEvidence, generator: torch.Generator) -> Tensor:
    """Mean over the images of |dL/dm| at open gates, L the cross-entropy; each layer scaled to norm 1.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (arXiv 1611.06440).
    """
    network, sites = evidence.network, evidence.sites
    total = torch.zeros(num_gates(sites), device=evidence.images.device)
    for image, label in zip(evidence.images.split(1), evidence.labels.split(1), strict=True):
        gates = torch.ones_like(total, requires_grad=True)
        with gated(network, sites, gates):
            loss = F.cross_entropy(evidence.outputs(image), label)
        total += torch.autograd.grad(loss, gates)[0].abs()
    return _scaled_by_layer(total, sites)


def magnitude_scores(evidence: SourceEvidence, generator: torch.Generator) -> Tensor:
    """Mean absolute activation behind each gate; each layer scaled to norm 1."""
    network, sites = evidence.network, evidence.sites
    sums = [torch.zeros(site.num_gates, device=evidence.images.device) for site in sites]

    def measure(site: GateSite, total: Tensor) -> Callable[[Tensor], None]:
        def add(activation: Tensor) -> None:
            channels = activation.movedim(site.axis, -1).flatten(0, -2).abs().mean(0)
            total.add_(channels.unflatten(0, (site.num_gates, site.group_size)).mean(1) * len(activation))

        return add

    handles = []
    for site, total in zip(sites, sums, strict=True):
        module, add = network.get_submodule(site.path), measure(site, total)
        if site.side == "output":
            handles.append(module.register_forward_hook(lambda module, args, output, add=add: add(output)))
        else:
            handles.append(module.register_forward_pre_hook(lambda module, args, add=add: add(args[0])))
    try:
        run_in_batches(evidence.outputs, evidence.images, batch_size=BATCH_SIZE)
    finally:
        for handle in handles:
            handle.remove()
    return _scaled_by_layer(torch.cat(sums), sites)


def _scaled_by_layer(scores: Tensor, sites: Sequence[GateSite]) -> Tensor:
    parts = split_gates(scores, sites)
    return torch.cat([part / torch.linalg.vector_norm(part).clamp_min(1e-12) for part in parts])


def _for_all(score: Callable[[SourceEvidence, torch.Generator], Tensor]) -> Callable:
    """Of scores that do not depend on the share: the same for each."""
    return lambda evidence, generator: [score(evidence, generator)] * len(evidence.keeps)


LOCALISERS: Mapping[str, Callable[[SourceEvidence, torch.Generator], list[Tensor]]] = {
    "lime": fitted_scores,
    "direct": fitted_scores,
    "taylor": _for_all(taylor_scores),
    "magnitude": _for_all(magnitude_scores),
    "random": _for_all(lambda evidence, generator: torch.rand(num_gates(evidence.sites), generator=generator)),
    "none": _for_all(lambda evidence, generator: torch.ones(num_gates(evidence.sites))),
}
"""By name: a score per gate for every share, (n,) float32, larger is more important."""
