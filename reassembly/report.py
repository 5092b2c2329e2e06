"""The files of a search: blueprint, table of candidates, figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.figures import candidates_figure, partition_map, similarity_heatmap
from reassembly.pipeline import SearchResult
from reassembly.settings import SearchSettings
from zoo.blueprint import write_blueprint
from zoo.storage.files import ReportFiles, write_csv


def write_report(found: SearchResult, settings: SearchSettings, directory: Path) -> ReportFiles:
    """Writes ``blueprint.yaml``, ``candidates.csv`` and the figures into ``directory``."""
    blueprint, table = directory / "blueprint.yaml", directory / "candidates.csv"
    write_blueprint(blueprint, found.blueprint)
    write_candidates_csv(table, found.candidates, found.candidates[0].candidate)
    descriptions = list(found.descriptions.values())
    rows = [
        {"kind": c.candidate.kind, "macs": c.candidate.macs, "num_params": c.candidate.num_params, **c.scores}
        for c in found.candidates
    ]
    figures = (
        similarity_heatmap(
            directory / "similarity.png",
            found.similarity,
            found.partition.networks,
            [len(description) - 1 for description in descriptions],
            found.partition.cuts,
            label=settings.similarity.measure.replace("_", " "),
        ),
        partition_map(directory / "partition.png", found.partition),
        candidates_figure(
            directory / "candidates.png", rows, pick=0, score=settings.proxy.name, budget=settings.budget
        ),
    )
    return ReportFiles(blueprint, table, figures)


def write_candidates_csv(path: str | Path, scored: Iterable[ScoredCandidate], picked: Candidate | None = None) -> None:
    """Writes the table of candidates in the order given, one row each; the picked one is marked with 1."""
    scored = list(scored)
    proxies = list(dict.fromkeys(name for entry in scored for name in entry.scores))
    columns = ["rank", "composition", "kind", "num_blocks", "num_params", "macs", "num_draws", "picked"]
    rows = []
    for rank, entry in enumerate(scored, start=1):
        c = entry.candidate
        row = [rank, c.composition, c.kind, len(c.blocks), c.num_params, c.macs, entry.num_draws, int(c == picked)]
        rows.append([*row, *(entry.scores.get(name) for name in proxies)])
    write_csv(path, [*columns, *(f"score_{name}" for name in proxies)], rows)
