"""Short tuning decides between the candidates of best score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from reassembly.assembly import ScoredCandidate

log = logging.getLogger(__name__)


def decide(
    scored: Sequence[ScoredCandidate], num_finalists: int, tune: Callable[[ScoredCandidate, int], float]
) -> list[ScoredCandidate]:
    """Successive halving: tunes the best ones shortly, keeps the better half, doubles the epochs, until one is left.

    Differs from resumed halving: each rung tunes anew with a schedule of its own length, so that a rung's accuracy is
    that of a finished short run.

    Args:
        scored: All candidates, best first; ties in tuning go to the earlier one.
        num_finalists: How many are tuned.
        tune: Tunes a candidate for some epochs and returns its accuracy on the validation split.

    Returns:
        All candidates: the finalists by their last accuracy, which joins their scores as ``short_tuning``, those that
        came furthest first, then the others as they were.
    """
    rung, epochs = list(scored[:num_finalists]), 1
    accuracies: dict[str, float] = {}
    while True:
        for entry in rung:
            accuracies[entry.candidate.composition] = tune(entry, epochs)
        rung = sorted(rung, key=lambda entry: -accuracies[entry.candidate.composition])
        log.info("finalists after %d epochs: %s", epochs, [f"{accuracies[e.candidate.composition]:.3f}" for e in rung])
        if len(rung) <= 2:
            break
        rung, epochs = rung[: -(-len(rung) // 2)], 2 * epochs
    left = [entry for entry in scored[:num_finalists] if entry not in rung]
    others = sorted(left, key=lambda entry: -accuracies[entry.candidate.composition])
    return [
        *(
            replace(entry, scores={**entry.scores, "short_tuning": accuracies[entry.candidate.composition]})
            for entry in [*rung, *others]
        ),
        *scored[num_finalists:],
    ]
