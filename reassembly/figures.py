"""Figures of a search: similarity with its cuts, the partition, and the candidates. Plain data in, one PNG out each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from reassembly.partition import Partition
from reassembly.settings import Budget
from zoo.storage.files import atomic_path

DPI = 160
INK, FAINT = "#222222", "#9a9a9a"
MAP = "viridis"  # perceptually uniform, readable in grey and with any colour vision
KINDS = {  # colours of Okabe and Ito, shapes for print
    "assembly": {"marker": "o", "color": "#56B4E9", "label": "assembly"},
    "truncated": {"marker": "^", "color": "#E69F00", "label": "truncated network"},
    "network": {"marker": "s", "color": "#009E73", "label": "whole network"},
}
PICK = "#D55E00"
HALO = [withStroke(linewidth=2.2, foreground=INK, alpha=0.55)]


def similarity_heatmap(
    path: str | Path,
    similarity,
    networks: Sequence[str],
    num_nodes: Sequence[int],
    cuts: Sequence[Sequence[int]] | None = None,
    *,
    label: str = "linear CKA",
) -> Path:
    """Similarity of all nodes, networks apart from each other and cuts drawn.

    Args:
        path: PNG to write.
        similarity: ``(M, M)``; the nodes of a network are consecutive, its stem first.
        networks: Names.
        num_nodes: Nodes of each network (stem and body); they add up to M.
        cuts: Per network the chain's cuts (0, c1, ..., L - 1); the inner ones are drawn.
        label: Of the colour bar.
    """
    similarity = np.asarray(similarity, dtype=float)
    assert similarity.shape == (sum(num_nodes),) * 2, "num_nodes add up to the matrix"
    edges = np.cumsum([0, *num_nodes])
    size = min(max(3.2 + 0.085 * edges[-1], 4.5), 16.0)
    figure, axes = _figure(size + 1.0, size)
    image = axes.imshow(similarity, cmap=MAP, vmin=min(0.0, similarity.min()), vmax=1.0, interpolation="nearest")
    for edge in edges[1:-1] - 0.5:
        axes.axhline(edge, color="white", linewidth=2.2)
        axes.axvline(edge, color="white", linewidth=2.2)
    for (start, stop), network_cuts in zip(itertools.pairwise(edges), cuts or (), strict=bool(cuts)):
        for cut in network_cuts[1:-1]:
            at, span = start + cut - 0.5, (start - 0.5, stop - 0.5)
            for xs, ys in (((at, at), span), (span, (at, at))):
                axes.plot(xs, ys, color="white", linewidth=1.0, linestyle=(0, (3, 2)), path_effects=HALO)
            axes.plot([at], [-0.5], marker="v", color=INK, markersize=4, clip_on=False)
            axes.plot([-0.5], [at], marker=">", color=INK, markersize=4, clip_on=False)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    axes.set_xticks(middles, networks, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles, networks)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Representation similarity of nodes" + (", cuts dashed" if cuts else ""), loc="left", pad=10)
    _colour_bar(figure, axes, image, label)
    return _save(figure, path)


def partition_map(path: str | Path, partition: Partition) -> Path:
    """Every network a row of blocks, as wide as their nodes, coloured by similarity to their set's centre.

    The number in a block is its set; a star and a frame mark the centres.
    """
    values = np.array(partition.block_similarities)
    lengths = [cuts[-1] - 1 for cuts in partition.cuts]
    figure, axes = _figure(min(max(4.5 + 0.38 * max(lengths), 6.5), 16.0), 1.5 + 0.46 * len(lengths))
    top = float(values.max())
    from_value = ScalarMappable(Normalize(vmin=min(float(values.min()), top - 0.1), vmax=top), MAP)
    for row, (cuts, sets) in enumerate(zip(partition.cuts, partition.sets, strict=True)):
        positions = [0, *(cut - 1 for cut in cuts[1:])]
        for block, (start, stop) in enumerate(itertools.pairwise(positions)):
            is_centre = partition.centres[sets[block]] == (row, block)
            fill = from_value.to_rgba(values[row, block])
            axes.add_patch(
                FancyBboxPatch(
                    (start + 0.11, row - 0.34),
                    stop - start - 0.22,
                    0.68,
                    boxstyle="round,pad=0,rounding_size=0.08",
                    facecolor=fill,
                    edgecolor=PICK if is_centre else "none",
                    linewidth=2.2 if is_centre else 0.0,
                )
            )
            axes.text(
                (start + stop) / 2,
                row,
                f"{sets[block] + 1}★" if is_centre else f"{sets[block] + 1}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if is_centre else "normal",
                color="white" if np.dot(fill[:3], (0.299, 0.587, 0.114)) < 0.5 else INK,
            )
            for node in range(start + 1, stop):
                axes.plot([node, node], [row + 0.27, row + 0.34], color="white", linewidth=0.8)
    axes.set_yticks(range(len(lengths)), partition.networks)
    axes.set_xlim(-0.1, max(lengths) + 0.1)
    axes.set_ylim(len(lengths) - 0.5, -0.5)
    axes.set_xlabel("node of the chain (after the stem)")
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    verdict = "proven optimal" if partition.proven else f"at most {100 * partition.gap:.2g} % below the optimum"
    if partition.settings.mode == "even":
        verdict = "even splits"
    axes.set_title(
        f"Partition into {partition.num_blocks} equivalence sets: J = {partition.objective:.2f}, {verdict}",
        loc="left",
        pad=8,
    )
    _colour_bar(figure, axes, from_value, "similarity to the centre (★)")
    return _save(figure, path)


def candidates_figure(
    path: str | Path,
    candidates: Sequence[Mapping],
    *,
    pick: int | None = None,
    score: str = "score",
    budget: Budget | None = None,
) -> Path:
    """Score of all candidates against their MACs and their parameters, with the pick and the budget.

    Args:
        path: PNG to write.
        candidates: Rows with ``kind`` (assembly, truncated, network), ``macs``, ``num_params`` and the score's column.
        pick: Index of the chosen row.
        score: Name of the score's column; rows whose score is not finite are left out.
        budget: Limits to draw.
    """
    budget = budget or Budget()
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "macs", "MACs", budget.min_macs, budget.max_macs),
        (right, "num_params", "parameters", budget.min_params, budget.max_params),
    )
    shown = [row for row in candidates if np.isfinite(row[score])]
    for axes, cost, name, least, most in panels:
        _tidy(axes)
        for kind, style in KINDS.items():
            rows = [row for row in shown if row["kind"] == kind]
            if rows:
                crowd = kind == "assembly"
                axes.scatter(
                    [row[cost] for row in rows],
                    [row[score] for row in rows],
                    s=16 if crowd else 46,
                    alpha=(0.35 if len(rows) > 200 else 0.7) if crowd else 1.0,
                    linewidths=0 if crowd else 0.8,
                    edgecolors="white",
                    zorder=2 if crowd else 3,
                    rasterized=True,
                    **{**style, "label": f"{style['label']} ({len(rows):,})"},
                )
        if pick is not None:
            row = candidates[pick]
            axes.scatter(
                row[cost], row[score], s=300, marker="*", color=PICK, edgecolors="white", zorder=5, label="pick"
            )
        axes.set_xscale("log")
        axes.margins(x=0.08)
        low, high = axes.get_xlim()
        for limit, outside in ((least, -1), (most, 1)):
            if limit:
                axes.axvline(limit, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
                low, high = min(low, limit / 1.15), max(high, limit * 1.15)
                axes.axvspan(*((limit, high) if outside > 0 else (low, limit)), color=FAINT, alpha=0.16, zorder=0)
                axes.annotate(
                    f"{'max' if outside > 0 else 'min'} {EngFormatter(sep='')(limit)}",
                    (limit, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(-2 * outside, 3),
                    textcoords="offset points",
                    ha="left" if outside > 0 else "right",  # the labels of a narrow budget keep apart
                    va="bottom",
                    fontsize=8.5,
                    color=INK,
                )
        axes.set_xlim(low, high)
        axes.set_xlabel(name)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    left.set_ylabel(score.replace("_", " "))
    figure.suptitle(f"{len(shown):,} candidates", x=0.01, ha="left", fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1), frameon=False, fontsize=9)
    return _save(figure, path)


def _figure(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.title.set_fontsize(11)


def _colour_bar(figure, axes, mappable, label: str) -> None:
    bar = figure.colorbar(mappable, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)


def _save(figure: Figure, path: str | Path) -> Path:
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    return Path(path)
