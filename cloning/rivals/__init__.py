"""What cloning is compared with: every way under one signature, with the same data, budget and number of tries.

A rival maps a problem and its settings to a module from images, preprocessed for the target, to logits in the order of
the cloned network's classes. It works on copies: target and sources stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloning.rivals.ensemble import ensemble_logits, ensemble_softmax
from cloning.rivals.ewc import ewc
from cloning.rivals.fine_tune import fine_tune, joint
from cloning.rivals.full_cloning import full_cloning
from cloning.rivals.lwf import lwf
from cloning.rivals.training import Rival

RIVALS: Mapping[str, Rival] = {
    "joint": joint,
    "fine_tune": fine_tune,
    "ewc": ewc,
    "lwf": lwf,
    "ensemble_softmax": ensemble_softmax,
    "ensemble_logits": ensemble_logits,
    "full_cloning": full_cloning,
}
"""By name; ``full_cloning`` is the article's PNC-F."""
