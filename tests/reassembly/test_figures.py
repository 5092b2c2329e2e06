"""What the figures show, read back from the drawn objects; that a PNG is written."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch

from reassembly import figures
from reassembly.partition import Partition, find_partition
from reassembly.settings import Budget, PartitionSettings
from zoo.blueprint import BlockSpec

LENGTHS = (4, 6, 5)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in order."""
    kept, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or save(figure, path))
    return kept


def example(mode: str = "stage") -> tuple[np.ndarray, Partition]:
    total = sum(LENGTHS) + len(LENGTHS)
    similarity = np.random.default_rng(0).random((total, total))
    ends = np.cumsum([length + 1 for length in LENGTHS])
    features = [list(range(end - length - 1, end)) for end, length in zip(ends, LENGTHS, strict=True)]
    settings = PartitionSettings(num_blocks=3, mode=mode)
    return similarity, find_partition(similarity, features, ("a", "b_long_name", "c"), settings)


def is_png(path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and "</svg>" in path.with_suffix(".svg").read_text()


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
    assert sorted(text.get_text()[0] for text in axes.texts if "★" in text.get_text()) == ["1", "2", "3"]
    sets = [int(text.get_text()[0]) - 1 for text in axes.texts]
    assert sets == [k for row in partition.sets for k in row]


def test_partition_map_numbers_nodes_as_recipes_do_and_frames_the_pick(tmp_path, drawn):
    _, partition = example()
    first, second = partition.cuts[0], partition.cuts[1]
    pick = [BlockSpec("a", (0, first[2])), BlockSpec("b_long_name", (second[2], second[3]))]
    figures.partition_map(tmp_path / "p.png", partition, pick)
    axes = drawn[0].axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    spans = [(round(box.get_x()), round(box.get_x() + box.get_width()), round(box.get_y() + 0.34)) for box in boxes]
    cuts = [(*pair, row) for row, cuts in enumerate(partition.cuts) for pair in itertools.pairwise(cuts)]
    assert spans == cuts
    framed = [span for span, box in zip(spans, boxes, strict=True) if box.get_linewidth() > 0]
    assert framed == [cuts[0], cuts[1], cuts[5]]


def test_partition_map_title_tells_what_is_known_of_the_optimum(tmp_path, drawn):
    _, partition = example()
    figures.partition_map(tmp_path / "p.png", partition)
    open_gap = dataclasses.replace(partition, proven=False, upper_bound=partition.objective / 0.97)
    figures.partition_map(tmp_path / "p.png", open_gap)
    titles = [figure.axes[0].get_title(loc="left").splitlines()[0] for figure in drawn]
    assert titles[0].endswith("proven optimal")
    assert titles[1].endswith("at most 3 % below the optimum")


def test_partition_map_of_equal_similarities(tmp_path):
    similarity = np.ones((6, 6))
    partition = find_partition(similarity, [list(range(6))], ["alone"], PartitionSettings(num_blocks=2))
    assert is_png(figures.partition_map(tmp_path / "p.png", partition))


def rows() -> list[dict]:
    kinds = ["assembly"] * 5 + ["truncated"] * 2 + ["network"]
    return [
        {
            "composition": f"net{i}[0:{i + 1}]",
            "kind": kind,
            "macs": 10**6 * (i + 1),
            "num_params": 1000 * (8 - i),
            "ridge": 0.5 + 0.01 * i,
        }
        for i, kind in enumerate(kinds)
    ]


def test_candidates_are_told_apart_and_the_pick_is_marked(tmp_path, drawn):
    candidates = rows()
    candidates[0]["ridge"] = math.nan
    budget = Budget(max_macs=5_000_000, min_params=2000)
    path = figures.candidates_figure(
        tmp_path / "c.png",
        candidates,
        pick=6,
        score="ridge",
        label="leave-one-out accuracy of a ridge head, %",
        num_fitting=20,
        budget=budget,
    )
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
    assert left.get_ylabel() == "leave-one-out accuracy of a ridge head, %"
    told = drawn[0]._suptitle.get_text().splitlines()
    assert told == [
        "20 compositions fit the budget, 8 scored, 1 without a finite score",
        "pick: net6[0:7]",
    ]
    (front,) = (line for line in left.lines if line.get_label().startswith("front"))
    assert front.get_xdata().tolist() == [10**6 * i for i in range(2, 9)]  # dearer is better here, all are on it
    assert left.get_xlim()[0] < 2e6
    assert left.get_xlim()[1] > 8e6


def test_the_front_is_what_nothing_cheaper_beats():
    points = [(3, 0.9), (1, 0.2), (2, 0.9), (2, 0.1), (5, 0.95), (4, 0.5)]
    assert figures.pareto_front(points) == [(1, 0.2), (2, 0.9), (5, 0.95)]
    assert figures.pareto_front(points, higher_is_better=False) == [(1, 0.2), (2, 0.1)]
    assert figures.pareto_front([]) == []


def test_candidates_without_any_finite_score(tmp_path):
    candidates = [{**row, "ridge": -math.inf} for row in rows()]
    assert is_png(figures.candidates_figure(tmp_path / "c.png", candidates, pick=0, score="ridge"))


def test_thirty_networks_of_long_names(tmp_path):
    names = [f"timm:some_very_long_architecture_{i}.with_a_tag_$of_pretraining_{i}$" for i in range(30)]
    similarity = np.random.default_rng(0).random((90, 90))
    features = [list(range(3 * i, 3 * i + 3)) for i in range(30)]
    partition = find_partition(similarity, features, names, PartitionSettings(num_blocks=2, mode="even"))
    assert is_png(figures.similarity_heatmap(tmp_path / "s.png", similarity, names, [3] * 30, partition.cuts))
    assert is_png(figures.partition_map(tmp_path / "p.png", partition))


@pytest.mark.parametrize("kept", [slice(0, 1), slice(7, 8), slice(5, 8)])
def test_few_candidates_without_budget(tmp_path, kept):
    assert is_png(figures.candidates_figure(tmp_path / "c.png", rows()[kept], pick=0, score="ridge"))
