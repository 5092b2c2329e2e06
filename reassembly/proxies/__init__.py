"""Proxies: scores of untuned candidates, one pure function each, and the registry of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from reassembly.proxies.base import Evidence, Proxy
from reassembly.proxies.controls import MACS, PARAMS, RANDOM
from reassembly.proxies.logme import LOGME
from reassembly.proxies.naswot import NASWOT
from reassembly.proxies.ridge import RIDGE
from zoo.errors import UserError
from zoo.limits import at_least, check, one_of, require

__all__ = ["PROXIES", "Evidence", "Proxy", "ProxySettings", "find_proxy"]

PROXIES = {proxy.name: proxy for proxy in (RIDGE, LOGME, NASWOT, PARAMS, MACS, RANDOM)}


@dataclass(frozen=True)
class ProxySettings:
    """How candidates are scored.

    Attributes:
        name: The proxy that ranks them.
        also: Further proxies to report beside it.
        num_draws: Draws of the random adapters over which scores are averaged.
        adapters: ``random`` (scaled to the moments that the next block knows from home) or ``closed_form``.
        num_images: Training images to score on, at most; None takes all.
        batch_size: Images per forward pass; NASWOT sees the first batch only.
        max_scored: Assemblies to score at most, those that ``reassembly.shortlist`` predicts to be best; None scores
            all.
        max_redrawn: Assemblies that get more than one draw at most, the best by the first draw; None redraws all, which
            takes ``num_draws`` times as long.

    Raises:
        UserError: A value that is not allowed.
    """

    name: str = "ridge"
    also: tuple[str, ...] = ()
    num_draws: Annotated[int, at_least(1)] = 3
    adapters: Annotated[str, one_of("random", "closed_form")] = "random"
    num_images: Annotated[int | None, at_least(2)] = 300
    batch_size: Annotated[int, at_least(2)] = 100
    max_scored: Annotated[int | None, at_least(1)] = 1000
    max_redrawn: Annotated[int | None, at_least(1)] = 60

    def __post_init__(self) -> None:
        check(self, "proxy")
        for key, names in (("name", (self.name,)), ("also", self.also)):
            for name in names:
                require(f"proxy.{key}", name, one_of(*PROXIES))


def find_proxy(name: str) -> Proxy:
    """The proxy of that name.

    Raises:
        UserError: There is none.
    """
    if name not in PROXIES:
        raise UserError(f"proxy.name={name} is unknown: allowed are {', '.join(PROXIES)}; type e.g. proxy=ridge")
    return PROXIES[name]
