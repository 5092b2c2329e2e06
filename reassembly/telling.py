"""What a search says on the console: sentences about partition and pick."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from reassembly.assembly import ScoredCandidate
from reassembly.partition import Partition

log = logging.getLogger(__name__)


def tell_partition(partition: Partition) -> None:
    """Says how good the partition is proven to be."""
    verdict = "proven optimal" if partition.proven else f"at most {100 * partition.gap:.2g} % below the optimum"
    if partition.settings.mode == "even":
        verdict = "even splits"
    networks = f"{len(partition.networks)} network{'s' if len(partition.networks) != 1 else ''}"
    log.info("cut %s into %d blocks each: J %.3f, %s", networks, partition.num_blocks, partition.objective, verdict)


def tell_pick(scored: Sequence[ScoredCandidate], judge: str) -> None:
    """Says what was picked and what it was better than: the best of each other kind that fits."""
    pick = scored[0]
    name = judge.replace("_", " ")
    costs = f"{pick.candidate.num_params:,} parameters, {pick.candidate.macs:,} MACs"
    log.info("picked %s: %s %.4g, %s", pick.candidate.composition, name, pick.scores[judge], costs)
    for kind, words in (("network", "whole network"), ("truncated", "truncated network"), ("assembly", "assembly")):
        others = (
            entry
            for entry in scored
            if entry.candidate.kind == kind and math.isfinite(entry.scores.get(judge, math.nan))
        )
        if kind != pick.candidate.kind and (best := next(others, None)):
            told = best.candidate.composition
            log.info("  the best %s that fits: %s, %s %.4g", words, told, name, best.scores[judge])


def all_or(count: int, of: int) -> str:
    """Whether all or some were."""
    return "all were" if count == of else f"the {count:,} most promising were"
