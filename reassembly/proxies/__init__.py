"""Proxies: scores of untuned candidates, one pure function each, and the registry of their names."""

from __future__ import annotations

from reassembly.proxies.base import Evidence, Proxy
from zoo.errors import UserError
from zoo.lazy import Registry

__all__ = ["OF_WHOLE_NETWORKS", "PROXIES", "Evidence", "Proxy", "find_proxy"]

PROXIES: Registry[Proxy] = Registry(
    ridge="reassembly.proxies.ridge:RIDGE",
    logme="reassembly.proxies.logme:LOGME",
    leep="reassembly.proxies.leep:LEEP",
    nleep="reassembly.proxies.nleep:NLEEP",
    naswot="reassembly.proxies.naswot:NASWOT",
    ridge_cuts="reassembly.proxies.ridge_cuts:RIDGE_CUTS",
    params="reassembly.proxies.controls:PARAMS",
    macs="reassembly.proxies.controls:MACS",
    random="reassembly.proxies.controls:RANDOM",
)
"""By name; a new one is a line here."""

OF_WHOLE_NETWORKS = ("leep",)
"""Those that score networks of the zoo alone: a composition has no classifier of its own."""


def find_proxy(name: str) -> Proxy:
    """The proxy of that name.

    Raises:
        UserError: There is none.
    """
    if name not in PROXIES:
        raise UserError(f"proxy.name={name} is unknown: allowed are {', '.join(PROXIES)}; type e.g. proxy=ridge")
    return PROXIES[name]
