"""What cloning is compared with: every way under one signature, with the same data, budget and number of tries.

A rival maps a problem and its settings to a module from images, preprocessed for the target, to logits in the order of
the cloned network's classes. It works on copies: target and sources stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cloning.rivals.concatenated import concatenated
from cloning.rivals.ensemble import ensemble_calibrated, ensemble_logits, ensemble_softmax
from cloning.rivals.ewc import ewc
from cloning.rivals.fine_tune import fine_tune, joint
from cloning.rivals.full_cloning import full_cloning
from cloning.rivals.lwf import lwf
from cloning.rivals.ranpac import ranpac
from cloning.rivals.training import Rival

RIVALS: Mapping[str, Rival] = {
    "joint": joint,
    "fine_tune": fine_tune,
    "ewc": ewc,
    "lwf": lwf,
    "fine_tune_sources": partial(fine_tune, with_sources=True),
    "ewc_sources": partial(ewc, with_sources=True),
    "lwf_sources": partial(lwf, with_sources=True),
    "ranpac": ranpac,
    "concatenated": concatenated,
    "ensemble_softmax": ensemble_softmax,
    "ensemble_logits": ensemble_logits,
    "ensemble_calibrated": ensemble_calibrated,
    "full_cloning": full_cloning,
}
"""By name; ``full_cloning`` is the article's PNC-F."""
