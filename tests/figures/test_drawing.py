"""What the drawing of a network shows, read back from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from figures import drawing
from figures.diagram import Diagram, Part, letters, listed_classes
from figures.drawing import draw_network
from figures.style import PALE, network_colours


def block(network: str, nodes: tuple[float, ...], num_params: int = 100, macs: int = 1000) -> Part:
    return Part("block", network, "a block", num_params, macs, network, nodes, "NCHW 8 @4x4")


def composed(*blocks: Part) -> Diagram:
    adapter = Part("adapter", "adapter", "linear", 10, 20, signal="NCHW 9 @2x2")
    parts = [part for each in blocks for part in (adapter, each)][1:]
    return Diagram("Composed", "NCHW 3 @8x8", (*parts, Part("head", "head", "linear", 5, 5)), "2 classes: cat, dog")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that are saved."""
    kept, save = [], drawing.save
    monkeypatch.setattr(drawing, "save", lambda figure, path: kept.append(figure) or save(figure, path))
    return kept


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def inside(figure) -> bool:
    """Whether all that is written lies on the page, and no two texts on each other."""
    figure.canvas.draw()
    page = figure.bbox
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    apart = [not a.padded(-2).overlaps(b.padded(-2)) for i, a in enumerate(boxes) for b in boxes[:i]]
    return all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes) and all(
        apart
    )


def test_blocks_show_their_nodes_in_the_colour_of_their_network(tmp_path: Path, drawn: list) -> None:
    diagram = replace(composed(block("a", (1, 1, 0)), block("b", (0, 0, 1, 0), 300)), networks=("z", "b", "a"))
    path = draw_network(tmp_path / "d.png", diagram)
    assert path.exists()
    assert path.with_suffix(".svg").exists()
    (figure,) = drawn
    colours = network_colours(["z", "b", "a"])
    cells = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_height() == pytest.approx(0.3)]
    used = [to_hex(cell.get_facecolor()).lower() for cell in cells if to_hex(cell.get_facecolor()) != PALE]
    assert used == [colours["a"].lower(), colours["a"].lower(), colours["b"].lower()]
    assert {"a", "b", "adapter", "head", "NCHW 8 @4x4", "NCHW 9 @2x2", "2 classes: cat, dog"} <= set(texts(figure))


def test_bars_are_to_scale(tmp_path: Path, drawn: list) -> None:
    draw_network(tmp_path / "d", composed(block("a", (1,), 100, 4000), block("b", (1,), 300, 1000)))
    bars = [p for p in drawn[0].axes[0].patches if isinstance(p, Rectangle) and p.get_height() == pytest.approx(0.18)]
    widths = [bar.get_width() for bar in bars]
    params, macs = widths[::2], widths[1::2]
    assert params[0] / params[2] == pytest.approx(1 / 3)
    assert macs[0] / macs[2] == pytest.approx(4)
    assert "415 in all" in texts(drawn[0])
    assert "300  72.3 %" in texts(drawn[0])


@pytest.mark.parametrize("count", [1, 2, 8])
def test_many_blocks_of_long_names_stay_legible(tmp_path: Path, drawn: list, count: int) -> None:
    names = [f"timm:vit_base_patch16_clip_224.openai_ft_in12k_in1k_and_more_{i}_of_it" for i in range(count)]
    blocks = [block(name, (1.0,) * (5 + 12 * i), 10 ** (9 - i), 10 ** (11 - i)) for i, name in enumerate(names)]
    draw_network(tmp_path / "d", composed(*blocks))
    assert inside(drawn[0])


@pytest.mark.parametrize("cuts", [(0,), (0, 0, 1, 1, 2, 11), (3, 4, 5, 6, 7, 8)])
def test_modules_branch_off_where_they_say(tmp_path: Path, drawn: list, cuts: tuple[int, ...]) -> None:
    tags = letters(len(cuts))
    branches: dict[int, str] = {}
    for cut, tag in zip(cuts, tags, strict=True):
        branches[cut] = f"{branches[cut]}, {tag}" if cut in branches else tag
    target = Part("target", "target", "unchanged", 1000, 1000, "target", (1.0,) * 12, branches=branches)
    modules = []
    for cut, tag in zip(cuts, tags, strict=True):
        if cut:
            modules.append(Part("adapter", "adapter", "linear", 10, 20, signal="NCHW 9 @2x2", tag=tag))
        modules.append(Part("module", f"source {tag}", "gives x", 50, 60, f"s{tag}", (0.0, 0.25, 1.0), tag=tag))
    head = Part("head", "head", "linear", 5, 5)
    draw_network(tmp_path / "d", Diagram("Cloned", "NCHW 3 @8x8", (target, *modules, head), "2 classes"))
    (figure,) = drawn
    assert {f"{tags}: cut {cut}" for cut, tags in branches.items()} <= set(texts(figure))
    assert set(tags) <= set(texts(figure))
    assert inside(figure)


def test_classes_are_listed_as_far_as_there_is_room() -> None:
    assert listed_classes(("cat",), 1) == "1 class: cat"
    assert listed_classes(None, 1000) == "1,000 classes"
    assert listed_classes(("cat", "dog", "x" * 80), 3) == "3 classes: cat, dog, ..."
    assert listed_classes(("x" * 80, "cat"), 2) == "2 classes"
