"""The files of a search: blueprint, table of candidates, figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.diagram import composed_diagram
from reassembly.proxies import find_proxy
from reassembly.result import SearchResult
from reassembly.settings import SearchSettings
from zoo.blueprint import write_blueprint
from zoo.storage.files import ReportFiles, write_csv

MEASURES = {
    "probe_kl": "exp(-KL) of probes",
    "linear_cka": "linear CKA",
    "rbf_cka": "RBF CKA",
    "svcca": "SVCCA",
    "regression": "R² of linear regression",
}


def write_report(found: SearchResult, settings: SearchSettings, directory: Path) -> ReportFiles:
    """Writes ``blueprint.yaml``, ``candidates.csv`` and the figures into ``directory``."""
    from figures.drawing import draw_network
    from reassembly.figures import candidates_figure, latency_figure, partition_map, similarity_heatmap

    blueprint, table = directory / "blueprint.yaml", directory / "candidates.csv"
    write_blueprint(blueprint, found.blueprint)
    write_candidates_csv(table, found.candidates, found.candidates[0].candidate)
    others = _write_front(found, settings.proxy.name, directory) if found.front else ()
    if found.left_out:
        others = (*others, directory / "left_out.csv")
        write_csv(directory / "left_out.csv", ["network", "reason"], found.left_out.items())
    descriptions = list(found.descriptions.values())
    rows = [{**vars(c.candidate), "composition": c.candidate.composition, **c.scores} for c in found.candidates]
    rows[0]["composition"] = found.blueprint.composition
    proxy = find_proxy(settings.proxy.name)
    figures = (
        draw_network(
            directory / "drawing.png",
            composed_diagram(found.blueprint, found.descriptions, found.partition.networks),
        ),
        similarity_heatmap(
            directory / "similarity.png",
            found.similarity,
            found.partition.networks,
            [len(description) - 1 for description in descriptions],
            found.partition.cuts,
            label=MEASURES.get(settings.similarity.measure, settings.similarity.measure),
        ),
        partition_map(directory / "partition.png", found.partition, found.blueprint.blocks),
        candidates_figure(
            directory / "candidates.png",
            rows,
            pick=0,
            score=proxy.name,
            label=proxy.label,
            higher_is_better=proxy.higher_is_better,
            num_fitting=found.num_fitting,
            budget=settings.budget,
        ),
    )
    if found.latency:
        figures = (*figures, latency_figure(directory / "latency.png", found.latency))
        others = (*others, directory / "latency.csv")
        checks = ([c.composition, c.predicted_ms, c.measured_ms, c.relative_error] for c in found.latency)
        columns = ["composition", "predicted_ms", "measured_ms", "relative_error"]
        write_csv(directory / "latency.csv", columns, checks)
    return ReportFiles(blueprint, table, figures, others)


def _write_front(found: SearchResult, proxy: str, directory: Path) -> tuple[Path, ...]:
    """Writes ``front.csv``, cheapest first, and a blueprint each as ``front/NNN.yaml``."""
    rows, files = [], []
    for number, (entry, blueprint) in enumerate(found.front):
        c, path = entry.candidate, directory / "front" / f"{number:03}.yaml"
        write_blueprint(path, blueprint)
        files.append(path)
        timed = [c.latency_ns / 1e6] if found.latency else []
        rows.append([f"front/{path.name}", c.composition, c.kind, c.num_params, c.macs, *timed, entry.scores[proxy]])
    table, timed = directory / "front.csv", ["latency_ms"] if found.latency else []
    write_csv(table, ["blueprint", "composition", "kind", "num_params", "macs", *timed, f"score_{proxy}"], rows)
    return table, *files


def write_candidates_csv(path: str | Path, scored: Iterable[ScoredCandidate], picked: Candidate | None = None) -> None:
    """Writes the table of candidates in the order given, one row each; the picked one is marked with 1."""
    scored = list(scored)
    proxies = list(dict.fromkeys(name for entry in scored for name in entry.scores))
    columns = ["rank", "composition", "kind", "num_blocks", "num_params", "macs", "num_draws", "picked", "predicted"]
    is_timed = any(entry.candidate.latency_ns for entry in scored)
    rows = []
    for rank, entry in enumerate(scored, start=1):
        c = entry.candidate
        row = [rank, c.composition, c.kind, len(c.blocks), c.num_params, c.macs, entry.num_draws, int(c == picked)]
        row.append(entry.predicted)
        row += [c.latency_ns / 1e6] if is_timed else []
        rows.append([*row, *(entry.scores.get(name) for name in proxies)])
    columns += ["latency_ms"] if is_timed else []
    write_csv(path, [*columns, *(f"score_{name}" for name in proxies)], rows)
