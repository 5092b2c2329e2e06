"""Scores that are kept candidate by candidate: another budget runs only what none before it admitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules import Digits
from reassembly.pipeline import Search
from reassembly.scoring import Scorer
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.registry import Zoo, read_zoo
from zoo.storage.store import Store


def test_another_budget_scores_only_what_none_before_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw of all, two of the best: first and second walks each know what they have walked."""
    embedded, data = read_zoo("embedded"), Digits(num_train=60, num_validation=30, num_test=30)
    zoo = Zoo("three", [embedded[name] for name in ("resnet_digits", "regnety_even", "vit_digits")])
    walked, score_tree = [], Scorer.score_tree

    def watched(self, candidates, *arguments):
        walked.extend(candidate.composition for candidate in candidates)
        return score_tree(self, candidates, *arguments)

    monkeypatch.setattr(Scorer, "score_tree", watched)

    def scored(root: Path, limit: int) -> tuple[list, list[str]]:
        walked.clear()
        settings = SearchSettings(
            similarity=SimilaritySettings(num_probe_images=40),
            partition=PartitionSettings(num_blocks=2, num_starts=4, max_bound_steps=200),
            budget=Budget(max_params=limit),
            proxy=ProxySettings(num_draws=2, num_images=40, max_redrawn=4),
        )
        found = Search(zoo, data, settings, store=Store(root), seed=0).run()
        return [(e.candidate, e.scores, e.num_draws) for e in found.candidates], sorted(walked)

    alone, all_of_it = scored(tmp_path / "alone", 250_000)
    fewer, _ = scored(tmp_path / "shared", 180_000)
    shared, since = scored(tmp_path / "shared", 250_000)
    assert 4 < len(fewer) < len(alone)
    assert shared == alone
    assert set(map(str, since)) < set(map(str, all_of_it))
    assert len(since) < len(all_of_it) - len(fewer) + 4 + 1
    again, nothing = scored(tmp_path / "shared", 180_000)
    assert (again, nothing) == (fewer, [])
