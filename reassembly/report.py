"""The files of a search: blueprint, table of candidates, figures."""

from __future__ import annotations

from pathlib import Path

from reassembly.figures import candidates_figure, partition_map, similarity_heatmap
from reassembly.pipeline import SearchResult
from reassembly.scoring import write_candidates_csv
from reassembly.settings import SearchSettings
from zoo.blueprint import write_blueprint
from zoo.storage.files import ReportFiles


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
