"""Which of the processes that train together this one is; known before torch or Lightning is imported."""

from __future__ import annotations

import os

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where launchers say it, in the order in which Lightning looks."""


def is_main() -> bool:
    """Whether this is the only or the first process, which writes for all."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0) == 0
