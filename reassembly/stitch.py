"""Closed-form initialisation of all adapters of an assembled network, front to back."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from reassembly.network import AssembledNetwork, assemble, boundary
from zoo.blueprint import BlockSpec, ReassemblyBlueprint, to_text
from zoo.chain import Chain
from zoo.chain.batches import Rows, checked, require_finite, run_rows
from zoo.errors import UserError
from zoo.stitching.adapters import closed_form_adapter

log = logging.getLogger(__name__)

ImagesFor = Callable[[str], Rows]
"""Name of a network -> the probe images with that network's preprocessing, (n, C, H, W), the same images for all."""


@torch.no_grad()
def stitch(
    network: AssembledNetwork,
    chains: Mapping[str, Chain],
    images_for: ImagesFor,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> AssembledNetwork:
    """Fits every adapter whose blueprint says ``closed_form``; the other adapters stay as they are.

    Adapter k maps what comes out of the network up to block k, with the adapters before it already fitted, to what
    block k + 1 received at home on the same images. Of images in memory the features of one cut are held, too; of
    images that come in batches nothing but the moments of the regression, and every adapter is another pass.

    Args:
        network: As ``assemble`` made it; stays untouched.
        chains: The untouched originals, which give the home features.
        images_for: The probe images, by the name of the network that is to see them.
        seed: Of the cross-validation folds and the positions drawn.
        batch_size: Images per forward pass.

    Returns:
        A new network in eval mode; in its blueprint the kernel sizes ``auto`` are decided.

    Raises:
        UserError: Fewer than two probe images, or features that are not finite.
    """
    network = copy.deepcopy(network).eval()
    blueprint = network.blueprint
    specs = list(blueprint.adapters)
    features = run_rows(network.blocks[0], images_for(blueprint.blocks[0].network), batch_size=batch_size)
    for k, (spec, before, block) in enumerate(zip(specs, blueprint.blocks, blueprint.blocks[1:], strict=False)):
        if spec.initialisation == "closed_form" and spec.kind != "none":
            source, target = boundary(before, block, chains)
            chain, start = chains[block.network], block.nodes[0]
            check = partial(require_finite, chain=chain, cut=start)
            home = run_rows(chain.block(0, start), images_for(block.network), batch_size=batch_size, check=check)
            reaches = f"{blueprint.composition}: what reaches adapter {k}"
            features = checked(features, partial(_finite, reaches, before))
            fit = closed_form_adapter(
                source, target, features, home, kind=spec.kind, kernel_size=spec.kernel_size, seed=seed
            )
            log.info(
                "adapter %d (%s): unexplained variance %.3f, solved on %s images",
                *(k, fit.adapter.extra_repr(), fit.error, f"{len(home):,}"),
            )
            network.adapters[k] = fit.adapter.eval()
            specs[k] = dataclasses.replace(spec, kernel_size=fit.adapter.kernel_size)
        onward = nn.Sequential(network.adapters[k], network.blocks[k + 1])
        features = run_rows(onward, features, batch_size=batch_size)
    network.blueprint = dataclasses.replace(blueprint, adapters=tuple(specs))
    return network


def _finite(what: str, before: BlockSpec, features: Tensor) -> Tensor:
    if not torch.isfinite(features).all():
        raise UserError(f"{what} holds NaN or infinity; take {before.network!r} out of the zoo, or repair its weights")
    return features


class Stitches:
    """The adapters in closed form of networks that are asked for again, as a finalist is in every rung.

    Only these are kept: what a network has beside its blocks is small.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[ReassemblyBlueprint, nn.ModuleList]] = {}

    def assemble(
        self, blueprint: ReassemblyBlueprint, chains: Mapping[str, Chain], images_for: ImagesFor, *, seed: int
    ) -> AssembledNetwork:
        """Assembles a blueprint with adapters and head drawn from ``seed``, then initialises what is in closed form.

        Args:
            blueprint: What to assemble.
            chains: The same in every call; likewise the other arguments.
        """
        network = assemble(blueprint, chains, generator=torch.Generator().manual_seed(seed))
        if (text := to_text(blueprint)) not in self._known:
            stitched = stitch(network, chains, images_for, seed=seed)
            self._known[text] = stitched.blueprint, copy.deepcopy(stitched.adapters)
            return stitched
        network.blueprint, adapters = self._known[text]
        network.adapters = copy.deepcopy(adapters)
        return network.eval()


def assemble_stitched(
    blueprint: ReassemblyBlueprint, chains: Mapping[str, Chain], images_for: ImagesFor, *, seed: int
) -> AssembledNetwork:
    """``Stitches().assemble(...)``, for those who ask once."""
    return Stitches().assemble(blueprint, chains, images_for, seed=seed)
