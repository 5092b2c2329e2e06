"""What a search gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from reassembly.assembly import ScoredCandidate
from reassembly.latency import LatencyCheck
from reassembly.partition import Partition
from reassembly.seams import Prediction
from zoo.blueprint import ReassemblyBlueprint
from zoo.description import ChainDescription


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        blueprint: The pick.
        candidates: All that fit the budget and were scored, best first; the first one is the pick.
        num_fitting: How many compositions fit the budget, scored or not; at ``MAX_LISTED`` counting ends.
        prediction: How well the additive prediction foretold the scores, where both are known.
        front: Under ``budget.pareto``, the candidates that no other one beats in parameters, MACs and score together,
            cheapest first, each with its blueprint.
        partition: Of every network of the zoo.
        similarity: (M, M) float64, of the nodes in the order of ``descriptions``, stem and body of each.
        descriptions: Of every network of the zoo.
        feature_keys: Content keys of their features.
        left_out: Networks of the zoo that the search went on without, and why.
        latency: Of the pick and some others as predicted and as measured, where the budget limits it.
        seconds: Wall time of every stage.
        reused: Stages that an earlier run had stored.
    """

    blueprint: ReassemblyBlueprint
    candidates: tuple[ScoredCandidate, ...]
    num_fitting: int
    prediction: Prediction | None
    front: tuple[tuple[ScoredCandidate, ReassemblyBlueprint], ...]
    partition: Partition
    similarity: Tensor
    descriptions: Mapping[str, ChainDescription]
    feature_keys: Mapping[str, str]
    left_out: Mapping[str, str]
    latency: tuple[LatencyCheck, ...]
    seconds: Mapping[str, float]
    reused: tuple[str, ...]
