"""What a search says on the console: sentences about partition and pick."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.candidates import MAX_LISTED
from reassembly.latency import LatencyCheck, LatencyTable
from reassembly.partition import Partition
from reassembly.seams import Prediction
from reassembly.settings import Budget

log = logging.getLogger(__name__)


def tell_partition(partition: Partition) -> None:
    """Says how good the partition is proven to be."""
    verdict = "proven optimal" if partition.proven else f"at most {100 * partition.gap:.2g} % below the optimum"
    if partition.settings.mode == "even":
        verdict = "even splits"
    networks = f"{len(partition.networks)} network{'s' if len(partition.networks) != 1 else ''}"
    log.info("cut %s into %d blocks each: J %.3f, %s", networks, partition.num_blocks, partition.objective, verdict)


def tell_scored(count: int, num_fitting: int, budget: Budget, scorer: str, prediction: Prediction | None) -> None:
    """Says how many compositions fit, how many were scored, and how honest the additive prediction was."""
    more = "more than " if num_fitting == MAX_LISTED else ""
    which = "all were" if count == num_fitting else f"the {count:,} most promising were"
    log.info("%s%s compositions fit %s; %s scored by %s", more, f"{num_fitting:,}", budget, which, scorer)
    if prediction is not None and prediction.tau is not None:
        told = f"tau {prediction.tau:.2f} over {prediction.num_compared:,} assemblies, regret {prediction.regret:.4g}"
        log.info("the additive prediction against these scores: %s", told)


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


def tell_whole_networks(scored: Sequence[ScoredCandidate], judge: str) -> None:
    """Says how whole networks rank."""
    ranked = (f"{entry.candidate.blocks[0].network} {entry.scores[judge]:.4g}" for entry in scored)
    log.info("whole networks by %s: %s", judge.replace("_", " "), ", ".join(ranked))


def tell_over_budget(whole: Candidate, budget: Budget) -> None:
    """Says that a whole network does not fit a budget, which binds only what is searched for."""
    if not budget.admits(*whole.costs[:2]):
        log.info(
            "%s has %s parameters and %s MACs: a whole network is under no budget, and does not fit %s",
            whole.composition,
            *(f"{cost:,}" for cost in whole.costs[:2]),
            budget,
        )


def tell_latency(check: LatencyCheck, table: LatencyTable) -> None:
    """Says how long the pick takes, and how far its prediction was off."""
    log.info(
        "latency of the pick: %.3g ms, predicted %.3g ms (%+.0f %%); batches of %d, %s",
        check.measured_ms,
        check.predicted_ms,
        100 * check.relative_error,
        table.batch_size,
        table.device,
    )
