"""Localisation: which gates of a source stay open, so that it behaves as ever on some classes, and on these only.

Source: Partial Network Cloning (arXiv 2303.10597), Local(.); the article leaves its equations out, those of
``cloning.gate_fit`` are this project's reading. The other ways to score gates stand beside it for comparison.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.evidence import Graft, SourceEvidence
from cloning.gate_fit import fitted_scores
from cloning.gates import GateSite, gated, hard_gates, num_gates, split_gates
from cloning.samples import BATCH_SIZE
from cloning.settings import FITTED, LocalisationSettings, Share
from zoo.chain import Chain
from zoo.chain.batches import run_in_batches
from zoo.chain.modes import eval_mode
from zoo.errors import UserError

log = logging.getLogger(__name__)

KEEPS = (0.59, 0.45)
"""Shares that are tried where none is asked for, one after the other; about half of a network's MACs is left, and less.
What no gate decides about stays."""


@dataclass(frozen=True)
class Localisation:
    """The module inside a source.

    Attributes:
        gates: (n,) float32 of 0 and 1, in the order of the sites.
        scores: (n,) float32, by which the gates were chosen; larger is more important.
        share: What was asked for.
    """

    gates: Tensor
    scores: Tensor
    share: Share


def tries(settings: LocalisationSettings) -> tuple[Share, ...]:
    """What is tried of a source: ``settings.keep`` or each of ``KEEPS``, largest first."""
    return tuple(map(Share, KEEPS if settings.keep is None else (settings.keep,)))


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
    graft: Graft | None = None,
) -> tuple[Localisation, ...]:
    """Scores the gates of a source on images of the cloned classes and keeps the best, once for everything tried.

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
        graft: The network that the module is for, with samples of all its classes; without it the module is fitted to
            its source alone.

    Returns:
        One for each of ``tries``; on the CPU.

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
    others = images[:0] if others is None else others
    wanted = tries(settings)
    with eval_mode(chain.network):
        evidence = SourceEvidence(
            chain.network, sites, images, labels, black, settings, others, shares, wanted, precision, graft
        )
        found = [scores.cpu() for scores in LOCALISERS[settings.name](evidence, generator)]
    if not all(torch.isfinite(scores).all() for scores in found):
        raise UserError(
            f"{chain.name!r}: the scores of its gates are not finite, since its outputs on images of the cloned "
            "classes hold NaN or infinity; repair its weights, or take another source"
        )
    localised = []
    for share, scores in zip(wanted, found, strict=True):
        keep = share.keep
        costs, above = None if macs is None else shares, 0.0 if settings.name in FITTED else -math.inf
        gates = hard_gates(scores, sites, keep, settings.min_per_layer, costs, above=above)
        gates = torch.ones_like(gates) if settings.name == "none" else gates
        num_asked = round(keep * len(gates)) if macs is None else (gates * shares).sum() <= keep + 1e-6 and len(gates)
        if settings.name != "none" and settings.keep is not None and gates.sum() > num_asked:
            log.warning(
                "%s: localisation.min_per_layer=%d keeps %d of %d gates open, more than localisation.keep=%g",
                *(chain.name, settings.min_per_layer, int(gates.sum()), len(gates), keep),
            )
        localised.append(Localisation(gates, scores, share))
    return tuple(localised)


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
    return lambda evidence, generator: [score(evidence, generator)] * len(evidence.tries)


LOCALISERS: Mapping[str, Callable[[SourceEvidence, torch.Generator], list[Tensor]]] = {
    "lime": fitted_scores,
    "direct": fitted_scores,
    "taylor": _for_all(taylor_scores),
    "magnitude": _for_all(magnitude_scores),
    "random": _for_all(lambda evidence, generator: torch.rand(num_gates(evidence.sites), generator=generator)),
    "none": _for_all(lambda evidence, generator: torch.ones(num_gates(evidence.sites))),
}
"""By name: a score per gate for every try, (n,) float32, larger is more important."""
