"""The files of a search for clones: blueprint, table of positions, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from cloning.diagram import cloned_diagram
from cloning.insertion import PositionResult
from cloning.measures import Locality, kept_per_layer
from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearchResult
from zoo.blueprint import write_blueprint
from zoo.storage.files import ReportFiles, write_csv


def write_report(
    found: CloningSearchResult,
    network: ClonedNetwork,
    localities: Sequence[Locality],
    directory: Path,
    networks: Sequence[str] = (),
) -> ReportFiles:
    """Writes ``blueprint.yaml``, ``positions.csv`` and the figures into ``directory``.

    Args:
        found: What the search found.
        network: Built from its blueprint.
        localities: Conditional similarity of its modules.
        directory: Of the run.
        networks: Names in the order that decides their colours, those of the zoo.
    """
    from cloning.figures import gates_figure, locality_figure, positions_figure
    from figures.drawing import draw_network

    blueprint, table = directory / "blueprint.yaml", directory / "positions.csv"
    write_blueprint(blueprint, found.blueprint)
    chosen = {clone.network: clone.position for clone in found.blueprint.clones}
    write_positions(table, found.positions, chosen)
    kept = {clone.source.name: kept_per_layer(clone) for clone in network.clones}
    figures = (
        draw_network(directory / "drawing.png", cloned_diagram(network, networks)),
        positions_figure(directory / "positions.png", found.positions, chosen),
        gates_figure(directory / "gates.png", kept, networks),
        locality_figure(directory / "locality.png", localities),
    )
    return ReportFiles(blueprint, table, figures)


def write_positions(path: Path, rows: Sequence[PositionResult], chosen: dict[str, int]) -> None:
    """Writes the table of positions as CSV, with a column that marks the choice."""
    names = [field.name for field in fields(PositionResult)]
    write_csv(path, [*names, "chosen"], [[*astuple(row), int(chosen[row.source] == row.position)] for row in rows])
