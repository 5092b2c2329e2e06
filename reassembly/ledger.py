"""Exact scores kept candidate by candidate, so that another budget scores what no budget before it admitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.candidates import content_digest
from reassembly.settings import ProxySettings
from zoo.blueprint import AdapterSpec
from zoo.storage.store import Store


@dataclass(frozen=True)
class ScoreLedger:
    """What is known of candidates, and a place for what becomes known.

    A score is that of a network run by itself, bit for bit (``PrefixTree``): it does not depend on the company it was
    computed in. Parallel jobs do not wait for each other: what both lack, both compute.

    Attributes:
        store: Of stage results.
        inputs: What the scores depend on beside candidate, settings and adapter, plain.
    """

    store: Store
    inputs: Any

    def scores(
        self,
        score_tree: Callable[..., list[ScoredCandidate]],
        candidates: Sequence[Candidate],
        settings: ProxySettings,
        adapter: AdapterSpec,
        known: Any = None,
    ) -> list[ScoredCandidate]:
        """``score_tree`` of the candidates, which runs for those alone that nothing is known of."""
        proxies = [settings.name, *settings.also]
        walk = [proxies, settings.adapters, settings.num_draws, settings.num_images, settings.batch_size]
        inputs = [self.inputs, walk, adapter, known is not None]
        names = {candidate: content_digest([candidate]) for candidate in candidates}
        stored = self.store.find("candidates", inputs)
        rows = {} if stored is None else stored.values
        there = [candidate for candidate in candidates if names[candidate] in rows]
        missing = [candidate for candidate in candidates if names[candidate] not in rows]
        found = [ScoredCandidate(candidate, *rows[names[candidate]]) for candidate in there]
        if missing:
            told = None if known is None else {candidate: known[candidate] for candidate in missing}
            new = score_tree(missing, settings, adapter, told)
            self.store.add(
                "candidates", inputs, {names[entry.candidate]: [dict(entry.scores), entry.num_draws] for entry in new}
            )
            found += new
        return found
