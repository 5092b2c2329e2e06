"""Which of very many candidates are worth scoring, told from compositions with a single adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from reassembly.assembly import Candidate
from zoo.blueprint import BlockSpec

Path = tuple[BlockSpec, ...]


def shortlist(
    candidates: Sequence[Candidate], size: int, score: Callable[[Iterable[Path]], Mapping[Path, float]]
) -> list[Candidate]:
    """The candidates of best predicted score, in their given order, with every zoo network and truncation.

    The prediction adds up what each step changes: ``s(b1) + sum_k s(b_k -> b_k+1) - s(b_k)``, where ``s(b)`` is the
    score of b's own network up to b, and ``s(b -> c)`` that of the same followed by c. It is exact for candidates with
    a single adapter at their end, up to the draw of that adapter, and needs N^2 (K - 1) + N K scores instead of N^K.
    Behind a score without end (NASWOT's before the first activation) the sum begins anew.

    Args:
        candidates: All of them.
        size: How many assemblies to keep.
        score: Scores of paths, higher is better.
    """
    steps = {pair for candidate in candidates for pair in pairwise(candidate.blocks)}
    ends = {candidate.blocks[0] for candidate in candidates} | {before for before, _ in steps}
    home = {block: BlockSpec(block.network, (0, block.nodes[1])) for block in ends}
    paths = {(home[block],) for block in ends} | {(home[before], block) for before, block in steps}
    scores = score(sorted(paths, key=str))

    def predicted(candidate: Candidate) -> float:
        value = scores[(home[candidate.blocks[0]],)]
        for before, block in pairwise(candidate.blocks):
            at_home, followed = scores[(home[before],)], scores[(home[before], block)]
            value = value + (followed - at_home) if math.isfinite(value) and math.isfinite(at_home) else followed
        return -math.inf if math.isnan(value) else value

    assemblies = [candidate for candidate in candidates if candidate.kind == "assembly"]
    kept = set(sorted(assemblies, key=predicted, reverse=True)[:size])
    return [candidate for candidate in candidates if candidate.kind != "assembly" or candidate in kept]
