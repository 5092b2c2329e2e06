"""The additive prediction of a composition's score: what each seam changes, measured on compositions with one adapter.

``s(b1) + sum_k s(b_k -> b_k+1) - s(b_k)``, where ``s(b)`` is the score of b's own network up to b, and ``s(b -> c)``
that of the same followed by c. It is exact for compositions with a single adapter at their end, up to the draw of that
adapter, and needs N^2 (K - 1) + N K scores instead of N^K.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from reassembly.assembly import Candidate, ScoredCandidate, joined
from reassembly.enumeration import PathCosts
from reassembly.proxies import Proxy
from reassembly.shortlist import Shortlist
from zoo.blueprint import BlockSpec
from zoo.progress import progress
from zoo.storage.store import StageResult, Store

Path = tuple[BlockSpec, ...]


def home(block: BlockSpec) -> BlockSpec:
    """The block's own network up to its end."""
    return BlockSpec(block.network, (0, block.nodes[1]))


def seam_paths(blocks: Sequence[Sequence[BlockSpec]], network: str, shortlist: Shortlist | None = None) -> list[Path]:
    """The paths whose scores tell what every seam behind a block of this network changes, without repetition.

    Args:
        blocks: K rows of N references.
        network: Whose blocks come before the seams.
        shortlist: Of the blocks behind; None takes all.
    """
    paths: list[Path] = []
    for stage, row in enumerate(blocks):
        before = next(block for block in row if block.network == network)
        paths.append((home(before),))
        following = blocks[stage + 1] if stage + 1 < len(blocks) else ()
        kept = None if shortlist is None else shortlist.get((stage, network), frozenset())
        others = (block for block in following if block.network != network)
        paths += [(home(before), block) for block in others if kept is None or block.network in kept]
    return paths


def additive_values(blocks: Sequence[Sequence[BlockSpec]], scores: Mapping[Path, float]) -> PathCosts:
    """The prediction as one float64 quantity of paths, to maximise.

    A seam that was not scored, or leads to no finite score, is forbidden (``-inf``). Behind a beginning without a
    finite score (NASWOT's before the first activation) the sum begins with what follows it.

    Args:
        blocks: K rows of N references.
        scores: Of the paths of ``seam_paths``, higher is better; those of some networks may be missing.
    """
    shape = len(blocks), len(blocks[0])
    unary, tail = np.zeros((1, *shape)), np.zeros((1, *shape))
    seams = np.full((1, shape[0] - 1, shape[1], shape[1]), -np.inf)

    def known(path: Path) -> float:
        score = scores.get(path, -math.inf)
        return -math.inf if math.isnan(score) else score

    for stage, row in enumerate(blocks):
        for i, block in enumerate(row):
            at_home = known((home(block),))
            begun = at_home if math.isfinite(at_home) else 0.0
            if stage == 0:
                unary[0, 0, i] = begun
                tail[0, 0, i] = 0.0 if math.isfinite(at_home) else -np.inf
            for j, following in enumerate(blocks[stage + 1] if stage + 1 < len(blocks) else ()):
                path = (home(following),) if i == j else (home(block), following)
                seams[0, stage, i, j] = known(path) - begun
    return PathCosts(unary, seams, tail)


@dataclass(frozen=True)
class SeamRequest:
    """Which seams are to be scored, and what their scores depend on.

    Attributes:
        blocks: K rows of N references.
        inputs: What the scores depend on beside the blocks, plain.
        shortlist: Of the seams that are scored; None scores all.
    """

    blocks: tuple[tuple[BlockSpec, ...], ...]
    inputs: Mapping[str, Any]
    shortlist: Shortlist | None = None

    def paths(self, origin: str) -> list[Path]:
        """See ``seam_paths``."""
        return seam_paths(self.blocks, origin, self.shortlist)

    def store_inputs(self, origin: str) -> dict[str, Any]:
        """What names the scores of a network's seams in a store."""
        rows = [[str(block) for block in row] for row in self.blocks]
        told = [[str(block) for block in path] for path in self.paths(origin)] if self.shortlist is not None else None
        return {**self.inputs, "blocks": rows, "origin": origin, "paths": told}


def seam_values(
    request: SeamRequest,
    origins: Sequence[str],
    score: Callable[[Iterable[Path]], Mapping[Path, float]],
    store: Store,
) -> PathCosts:
    """``additive_values`` of scores that are stored network by network, so that they serve any budget.

    Args:
        request: Which seams.
        origins: Networks before whose seams something is asked; the others' are forbidden.
        score: Scores of paths, higher is better.
        store: Of stage results.
    """
    scores: dict[Path, float] = {}
    with progress("scores of seams", len(origins)) as advance:
        for name in origins:
            paths = request.paths(name)

            def compute(paths: Sequence[Path] = paths) -> StageResult:
                found = score(paths)
                return StageResult(values=[found[path] for path in paths])

            stored = store.fetch("seams", request.store_inputs(name), compute).values
            scores.update(zip(paths, stored, strict=True))
            advance()
    return additive_values(request.blocks, scores)


@dataclass(frozen=True)
class Prediction:
    """How well additive values foretell exact scores.

    Attributes:
        tau: Kendall's, between the two.
        regret: The best exact score less that of the composition predicted to be best.
        num_compared: Compositions of which both are known.
    """

    tau: float | None
    regret: float
    num_compared: int


def measure_prediction(predicted: Sequence[float], exact: Sequence[float]) -> Prediction | None:
    """Compares the two where both are finite; None where fewer than two are.

    Args:
        predicted: Additive values, higher is better.
        exact: Scores, higher is better.
    """
    both = [pair for pair in zip(predicted, exact, strict=True) if all(map(math.isfinite, pair))]
    if len(both) < 2:
        return None
    _, of_pick = max(both, key=lambda pair: pair[0])
    return Prediction(_kendall(np.array(both)), max(score for _, score in both) - of_pick, len(both))


def _kendall(pairs: np.ndarray) -> float | None:
    """Kendall's tau-b of two columns, None where one is constant; by its definition, for scipy.stats takes a second to
    load, in every search."""
    signs = [np.sign(column[:, None] - column) for column in pairs.T]
    norm = math.sqrt(float((signs[0] ** 2).sum()) * float((signs[1] ** 2).sum()))
    return float((signs[0] * signs[1]).sum()) / norm if norm else None


def predict(paths: Iterable[Path], scores: Mapping[Path, float]) -> list[float]:
    """The additive values of compositions from scores of single-adapter ones; ``-inf`` where one is missing."""

    def at_home(block: BlockSpec) -> float:
        return scores.get((home(block),), -math.inf)

    def value(path: Path) -> float:
        total = at_home(path[0])
        for before, block in pairwise(path):
            followed = at_home(block) if block.continues(before) else scores.get((home(before), block), -math.inf)
            total += followed - at_home(before)
        return total if math.isfinite(total) else -math.inf

    return [value(path) for path in paths]


def with_predictions(
    scored: Sequence[ScoredCandidate],
    proxy: Proxy,
    candidates: Sequence[Candidate] = (),
    predicted: Sequence[float] | None = None,
) -> tuple[list[ScoredCandidate], Prediction | None]:
    """Adds to each candidate what was predicted of it, and says how good that was for the assemblies.

    Args:
        scored: Exact scores.
        proxy: Whose.
        candidates: In the order of ``predicted``.
        predicted: What was predicted of each; None where all were scored: those with one adapter are then among them,
            and so is what the prediction adds up.
    """
    sign = 1 if proxy.higher_is_better else -1
    worth = [sign * entry.scores[proxy.name] for entry in scored]
    if predicted is None:
        known = {joined(entry.candidate.blocks): score for entry, score in zip(scored, worth, strict=True)}
        values = predict((entry.candidate.blocks for entry in scored), known)
    else:
        of = dict(zip((candidate.blocks for candidate in candidates), predicted, strict=True))
        values = [of[entry.candidate.blocks] for entry in scored]
    told = [replace(e, predicted=v if math.isfinite(v) else None) for e, v in zip(scored, values, strict=True)]
    mixed = [n for n, entry in enumerate(scored) if entry.candidate.kind == "assembly"]
    return told, measure_prediction([values[n] for n in mixed], [worth[n] for n in mixed])
