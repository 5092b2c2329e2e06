"""The files of a search for clones: blueprint, table of positions, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from cloning.choice import Combination, PositionResult, on_front
from cloning.diagram import cloned_diagram
from cloning.measures import Locality, kept_per_layer
from cloning.network import ClonedNetwork
from cloning.result import CloningSearchResult
from zoo.blueprint import write_blueprint
from zoo.storage.files import ReportFiles, write_csv


def write_report(
    found: CloningSearchResult,
    network: ClonedNetwork,
    localities: Sequence[Locality],
    directory: Path,
    networks: Sequence[str] = (),
) -> ReportFiles:
    """Writes ``blueprint.yaml``, the tables (``combinations.csv`` of several sources) and figures into ``directory``.

    Args:
        found: What the search found.
        network: Built from its blueprint.
        localities: Conditional similarity of its modules.
        directory: Of the run.
        networks: Names in the order that decides their colours, those of the zoo.
    """
    from cloning.figures import front_figure, gates_figure, locality_figure, positions_figure
    from figures.drawing import draw_network

    blueprint, table = directory / "blueprint.yaml", directory / "positions.csv"
    write_blueprint(blueprint, found.blueprint)
    write_positions(table, found.positions, found.chosen)
    front = [row for row in found.positions if on_front(row, [r for r in found.positions if r.source == row.source])]
    write_positions(directory / "front.csv", front, found.chosen)
    if found.together:
        write_combinations(directory / "combinations.csv", found.together, found.chosen)
    chosen = {row.source: row.position for row in found.chosen}
    shares = {row.source: row.share for row in found.chosen}
    rows = [row for row in found.positions if row.share == shares[row.source]]
    kept = {clone.source.name: kept_per_layer(clone) for clone in network.clones}
    figures = (
        draw_network(directory / "drawing.png", cloned_diagram(network, networks)),
        positions_figure(directory / "positions.png", rows, chosen),
        front_figure(directory / "front.png", found.positions, found.chosen, networks),
        gates_figure(directory / "gates.png", kept, networks),
        locality_figure(directory / "locality.png", localities),
    )
    return ReportFiles(blueprint, table, figures)


def write_positions(path: Path, rows: Sequence[PositionResult], chosen: Sequence[PositionResult]) -> None:
    """Writes a table of shares and positions as CSV, with a column that marks the choice."""
    names = [field.name for field in fields(PositionResult)]
    write_csv(path, [*names, "chosen"], [[*astuple(row), int(row in chosen)] for row in rows])


def write_combinations(path: Path, found: Sequence[Combination], chosen: Sequence[PositionResult]) -> None:
    """Writes what several sources make together as CSV, one combination a row, least loss first."""
    names = ("loss", "accuracy", "added_macs", "added_params", "num_local")
    sources = [f"{row.source}: {key}" for row in chosen for key in ("share", "position")]
    rows = [
        [
            *(getattr(one, name) for name in names),
            *(value for row in one.rows for value in (str(row.share), row.position)),
            int(one.rows == tuple(chosen)),
        ]
        for one in sorted(found, key=lambda one: (one.loss, one.added_macs))
    ]
    write_csv(path, [*names, *sources, "chosen"], rows)
