"""Controls: scores that know nothing of the task. A proxy that does not beat them explains nothing."""

from __future__ import annotations

import hashlib

from reassembly.proxies.base import Proxy


def random_score(composition: str, seed: int) -> float:
    """A number in [0, 1) that depends on the composition and the seed alone."""
    digest = hashlib.sha256(f"{seed} {composition}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


PARAMS = Proxy(
    name="params",
    score=lambda evidence: float(evidence.candidate.num_params),
    cost="nothing",
    label="parameters (a control)",
    is_control=True,
)
MACS = Proxy(
    name="macs",
    score=lambda evidence: float(evidence.candidate.macs),
    cost="nothing",
    label="MACs of an image (a control)",
    is_control=True,
)
RANDOM = Proxy(
    name="random",
    score=lambda evidence: random_score(evidence.candidate.composition, evidence.seed),
    cost="nothing",
    label="a random number (a control)",
    is_control=True,
)
