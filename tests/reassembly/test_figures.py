"""What the figures show, read back from the drawn objects; that a PNG is written."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch

from reassembly import figures
from reassembly.partition import Partition, find_partition
from reassembly.settings import Budget, PartitionSettings

LENGTHS = (4, 6, 5)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in order."""
    kept, save = [], figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure) or save(figure, path))
    return kept


def example(mode: str = "stage") -> tuple[np.ndarray, Partition]:
    total = sum(LENGTHS) + len(LENGTHS)
    similarity = np.random.default_rng(0).random((total, total))
    ends = np.cumsum([length + 1 for length in LENGTHS])
    features = [list(range(end - length - 1, end)) for end, length in zip(ends, LENGTHS, strict=True)]
    settings = PartitionSettings(num_blocks=3, mode=mode)
    return similarity, find_partition(similarity, features, ("a", "b_long_name", "c"), settings)


def is_png(path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_heat_map_draws_each_networks_cuts_between_its_nodes(tmp_path, drawn):
    similarity, partition = example()
    nodes = [length + 1 for length in LENGTHS]
    path = figures.similarity_heatmap(tmp_path / "s.png", similarity, partition.networks, nodes, partition.cuts)
    assert is_png(path)
    axes = drawn[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), similarity)
    vertical = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and line.get_path_effects()]
    starts = np.cumsum([0, *nodes])
    # A cut at node c of the chain lies between its nodes c - 1 and c.
    expected = {s + cut - 0.5 for s, cuts in zip(starts, partition.cuts, strict=False) for cut in cuts[1:-1]}
    assert expected <= set(vertical)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(partition.networks)


def test_heat_map_without_cuts(tmp_path):
    assert is_png(figures.similarity_heatmap(tmp_path / "s.png", np.eye(3) - 0.1, ["one"], [3]))


@pytest.mark.parametrize("mode", ["stage", "permutation", "even"])
def test_partition_map_has_every_block_once_and_marks_the_centres(tmp_path, drawn, mode):
    _, partition = example(mode)
    assert is_png(figures.partition_map(tmp_path / "p.png", partition))
    axes = drawn[0].axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == 9
    assert sum(box.get_linewidth() > 0 for box in boxes) == 3
    assert sorted(text.get_text()[0] for text in axes.texts if "★" in text.get_text()) == ["1", "2", "3"]
    sets = [int(text.get_text()[0]) - 1 for text in axes.texts]
    assert sets == [k for row in partition.sets for k in row]


def test_partition_map_title_tells_what_is_known_of_the_optimum(tmp_path, drawn):
    _, partition = example()
    figures.partition_map(tmp_path / "p.png", partition)
    open_gap = dataclasses.replace(partition, proven=False, upper_bound=partition.objective / 0.97)
    figures.partition_map(tmp_path / "p.png", open_gap)
    titles = [figure.axes[0].get_title(loc="left") for figure in drawn]
    assert titles[0].endswith("proven optimal")
    assert titles[1].endswith("at most 3 % below the optimum")


def test_partition_map_of_equal_similarities(tmp_path):
    similarity = np.ones((6, 6))
    partition = find_partition(similarity, [list(range(6))], ["alone"], PartitionSettings(num_blocks=2))
    assert is_png(figures.partition_map(tmp_path / "p.png", partition))


def rows() -> list[dict]:
    kinds = ["assembly"] * 5 + ["truncated"] * 2 + ["network"]
    return [
        {"kind": kind, "macs": 10**6 * (i + 1), "num_params": 1000 * (8 - i), "ridge": 0.5 + 0.01 * i}
        for i, kind in enumerate(kinds)
    ]


def test_candidates_are_told_apart_and_the_pick_is_marked(tmp_path, drawn):
    candidates = rows()
    candidates[0]["ridge"] = math.nan
    budget = Budget(max_macs=5_000_000, min_params=2000)
    path = figures.candidates_figure(tmp_path / "c.png", candidates, pick=6, score="ridge", budget=budget)
    assert is_png(path)
    left, right = drawn[0].axes
    groups = {c.get_label(): c.get_offsets().tolist() for c in left.collections if not c.get_label().startswith("_")}
    assert {label: len(points) for label, points in groups.items()} == {
        "assembly (4)": 4,
        "truncated network (2)": 2,
        "whole network (1)": 1,
        "pick": 1,
    }
    assert groups["pick"] == [[7e6, pytest.approx(0.56)]]
    assert [text.get_text() for text in left.texts] == ["max 5M"]
    assert [text.get_text() for text in right.texts] == ["min 2k"]
    assert left.get_xlim()[0] < 2e6
    assert left.get_xlim()[1] > 8e6


@pytest.mark.parametrize("kept", [slice(0, 1), slice(7, 8), slice(5, 8)])
def test_few_candidates_without_budget(tmp_path, kept):
    assert is_png(figures.candidates_figure(tmp_path / "c.png", rows()[kept], pick=0, score="ridge"))
