"""Which candidates short tuning decides between, and how.

Two scores that fail in different places fill most of the seats; the best truncated and the best whole network have one
each, so that composing has to beat them where it counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.proxies import find_proxy
from reassembly.settings import KINDS, SelectionSettings

log = logging.getLogger(__name__)


def choose_finalists(
    scored: Sequence[ScoredCandidate], num_finalists: int, settings: SelectionSettings
) -> list[ScoredCandidate]:
    """Fills the seats, in their order.

    A network with adapters of its own begins as what the same network without them is: where both are candidates, the
    one with adapters, which has more to train, stands for both. A seat that nobody can take (no whole network is within
    the budget) goes to the next best by the first score that has a seat, or by the search's proxy.

    Args:
        scored: All candidates, best first by the search's proxy.
        num_finalists: How many seats there are.
        settings: Whose they are.

    Returns:
        The finalists; fewer where too few candidates differ enough.
    """
    adapted = {entry.candidate.blocks for entry in scored if entry.candidate.is_adapted}
    pool = [entry for entry in scored if entry.candidate.is_adapted or entry.candidate.blocks not in adapted]
    chosen: list[ScoredCandidate] = []
    orders = {seat: _order(pool, seat) for seat in (*settings.seats, "")}
    seats = [*settings.seats, *[""] * num_finalists][:num_finalists]
    first_score = [seat for seat in seats if seat not in KINDS][:1]
    more = [*first_score * num_finalists, *[""] * num_finalists]  # for seats of kinds of which nothing fits
    for seat in [*seats, *more]:
        if len(chosen) == num_finalists:
            break
        free = (
            entry
            for entry in orders[seat]
            if entry not in chosen
            and all(_difference(entry.candidate, other.candidate) >= settings.min_difference for other in chosen)
        )
        if (entry := next(free, None)) is not None:
            chosen.append(entry)
    if len(chosen) < num_finalists:
        log.info("%d of %d finalists: no other differs enough from these", len(chosen), num_finalists)
    return chosen


def _order(pool: Sequence[ScoredCandidate], seat: str) -> list[ScoredCandidate]:
    """The candidates for a seat, best first; for one without a name in the order of the pool."""
    if not seat or seat in KINDS:
        return [entry for entry in pool if not seat or entry.candidate.kind == seat]
    sign = 1 if find_proxy(seat).higher_is_better else -1
    known = [entry for entry in pool if math.isfinite(entry.scores.get(seat, math.nan))]
    return sorted(known, key=lambda entry: -sign * entry.scores[seat])


def _difference(one: Candidate, other: Candidate) -> int:
    """In how many stages two candidates take blocks of different networks; where one has ended, the other differs."""
    shared = zip(one.blocks, other.blocks, strict=False)
    same = sum(mine.network == theirs.network for mine, theirs in shared)
    return max(len(one.blocks), len(other.blocks)) - same


def decide(
    finalists: Sequence[ScoredCandidate], num_epochs: Sequence[int], tune: Callable[[ScoredCandidate, int], float]
) -> list[ScoredCandidate]:
    """Successive halving: tunes all shortly, keeps the better half, tunes these for longer, and so on.

    The best network of one piece stays to the last rung of several, in the place of the half's last if need be: what is
    composed has to be better than it after the longest tuning, not after the first epoch. Of two nobody falls out: the
    last rung decides between them.

    Differs from resumed halving: each rung tunes anew with a schedule of its own length, so that a rung's accuracy is
    that of a finished short run. (Measured: what a long schedule shows after its first epoch decides worse.)

    Args:
        finalists: Ties in tuning go to the earlier one.
        num_epochs: Of every rung.
        tune: Tunes a candidate for some epochs and returns its accuracy on the validation split.

    Returns:
        The finalists by their last accuracy, which joins their scores as ``short_tuning``, those that came furthest
        first.
    """
    rung, out = list(finalists), []
    accuracies: dict[Candidate, float] = {}
    for number, epochs in enumerate(num_epochs, start=1):
        if number > 1 and len(rung) > 2:
            kept = _better_half(rung)
            rung, out = kept, [*(entry for entry in rung if entry not in kept), *out]
        if len(rung) <= 2 and number < len(num_epochs):
            continue  # nobody would fall out, and the longest tuning decides best
        for entry in rung:
            accuracies[entry.candidate] = tune(entry, epochs)
        rung = sorted(rung, key=lambda entry: -accuracies[entry.candidate])
        told = [f"{accuracies[entry.candidate]:.3f}" for entry in rung]
        log.info("finalists after %d epoch%s: %s", epochs, "" if epochs == 1 else "s", ", ".join(told))
    return [
        replace(entry, scores={**entry.scores, "short_tuning": accuracies[entry.candidate]}) for entry in [*rung, *out]
    ]


def _better_half(rung: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    kept = list(rung[: -(-len(rung) // 2)])
    best_whole = next((entry for entry in rung if entry.candidate.kind != "assembly"), None)
    if best_whole is not None and best_whole not in kept:
        kept[-1] = best_whole
    return kept


def decided(
    scored: Sequence[ScoredCandidate],
    num_finalists: int,
    settings: SelectionSettings,
    tune: Callable[[ScoredCandidate, int], float],
    max_epochs: int | None = None,
) -> list[ScoredCandidate]:
    """All candidates: the finalists as ``decide`` orders them, then the others as they were.

    Args:
        scored: All candidates, best first by the search's proxy.
        num_finalists: How many are tuned shortly.
        settings: Of seats and rungs.
        tune: As of ``decide``.
        max_epochs: Of the tuning that will follow: no rung is longer, and rungs that would be as long as it are one.
    """
    finalists = choose_finalists(scored, num_finalists, settings)
    rungs = settings.num_epochs
    if max_epochs is not None:
        rungs = tuple(dict.fromkeys(min(epochs, max_epochs) for epochs in rungs))
    ordered = decide(finalists, rungs, tune)
    taken = {entry.candidate for entry in ordered}
    return [*ordered, *(entry for entry in scored if entry.candidate not in taken)]


def best_of_each_kind(scored: Sequence[ScoredCandidate]) -> Iterator[tuple[str, ScoredCandidate]]:
    """The first candidate of each kind, by the kind."""
    for kind in KINDS:
        if entry := next((entry for entry in scored if entry.candidate.kind == kind), None):
            yield kind, entry
