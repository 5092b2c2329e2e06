"""The slim network of a chain and its gates, compared with the masked chain before anyone uses it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloning.gates import GateSite, gated, split_gates
from cloning.slimming.cut import cut
from cloning.slimming.plan import plan_cut
from cloning.slimming.units import NetworkUnits
from zoo.chain import Chain, Costs
from zoo.chain.costs import MacCounter, num_params
from zoo.chain.modes import eval_mode
from zoo.errors import FOREIGN_FAULTS, reason

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference between slim and masked features on noise, as a share of the largest feature. Sums of fewer
numbers round otherwise, which deep networks enlarge; a channel that should have stayed is far beyond."""


@dataclass(frozen=True)
class Slim:
    """A module in its own right.

    Attributes:
        network: From the tensor at the cut to the features that the classifier reads; in eval mode, without gradients
            for its weights, which are copies.
        costs: Its parameters, and its MACs for one image.
        masked: By qualified name of the gated module around which nothing can be cut, why; closed units are computed
            there and set to zero.
    """

    network: nn.Module
    costs: Costs
    masked: Mapping[str, str]


def slim(
    chain: Chain, sites: Sequence[GateSite], units: NetworkUnits, gates: Tensor, start: int, classifier: str
) -> Slim:
    """Cuts closed gates out of the nodes from ``start`` on, up to what the classifier reads.

    The result is compared with the masked network on noise. Where that fails (a forward that knows a width by heart),
    the sites are tried one by one, and those that cannot be cut stay masked, here and in every later call.

    Args:
        chain: The whole network; it is left as it was.
        sites: Its sites.
        units: ``find_units`` of both.
        gates: (n,) of 0 and 1.
        start: A cut of the chain.
        classifier: Qualified name of its last linear layer.
    """
    attempt = _Attempt(chain, sites, units, gates, start, classifier)
    here = [index for index, site in enumerate(sites) if site.node >= start]
    found = attempt.without(units.masked)
    if isinstance(found, str):
        for index in here:
            if index not in units.masked:
                alone = attempt.without([other for other in here if other != index])
                if isinstance(alone, str):
                    units.masked[index] = alone
        found = attempt.without(units.masked)
        if isinstance(found, str):
            units.masked |= dict.fromkeys(set(here) - set(units.masked), found)
            found = attempt.without(units.masked)
        paths = ", ".join(sites[index].path for index in sorted(units.masked))
        log.info("%s: closed units at %s stay as zeros, which cannot be cut out", chain.name, paths)
    if isinstance(found, str):
        raise AssertionError(f"{chain.name} differs from itself: {found}")
    return Slim(*found, {sites[index].path: why for index, why in units.masked.items() if index in here})


class _Attempt:
    """The network for some gates, tried with more or less of it cut."""

    def __init__(
        self,
        chain: Chain,
        sites: Sequence[GateSite],
        units: NetworkUnits,
        gates: Tensor,
        start: int,
        classifier: str,
    ) -> None:
        self.chain, self.sites, self.units = chain, sites, units
        self.gates, self.start, self.classifier = gates, start, classifier
        shape = chain.signal(start).shape(2)
        parameter = next(chain.network.parameters())
        self.x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
        parts = zip(sites, split_gates(gates, sites), strict=True)
        self.is_whole = all(bool((part > 0.5).all()) for site, part in parts if site.node >= start)
        self.expected = None if self.is_whole else self._masked_features()

    @torch.no_grad()
    def without(self, left_out: Sequence[int] | Mapping[int, str]) -> tuple[nn.Module, Costs] | str:
        """The network and its costs with nothing cut around some sites; or why it is none."""
        network = copy.deepcopy(self.chain.block(self.start, len(self.chain))).eval().requires_grad_(False)
        network.set_submodule(self.classifier, nn.Identity())
        try:
            if not self.is_whole:
                plan = plan_cut(self.units, self.sites, self.gates.cpu(), self.start, self.classifier, left_out)
                cut(network, plan, self.sites)
            features = network(self.x.clone())
            with sdpa_kernel(SDPBackend.MATH), MacCounter() as counter:
                network(self.x[:1].clone())  # of one image: what is computed once for all of a batch counts whole
        except FOREIGN_FAULTS as error:
            return reason(error)
        costs = Costs(num_params(network), counter.macs)
        if self.expected is None:
            return network, costs
        if features.shape != self.expected.shape:
            return f"it gives {list(features.shape)} instead of {list(self.expected.shape)}"
        difference = (features - self.expected).abs().max().item()
        if not difference <= TOLERANCE * self.expected.abs().max().item():
            return f"its features would be {difference:.2g} apart"
        return network, costs

    @torch.no_grad()
    def _masked_features(self) -> Tensor:
        network, seen = self.chain.network, []
        layer = network.get_submodule(self.classifier)
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            with eval_mode(network), gated(network, self.sites, self.gates.to(self.x)):
                self.chain.block(self.start, len(self.chain))(self.x.clone())
        finally:
            handle.remove()
        return seen[-1]
