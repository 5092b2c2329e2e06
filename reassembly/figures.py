"""Figures of a search: similarity with its cuts, the partition, and the candidates. Plain data in, files out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyBboxPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from figures.style import (
    FAINT,
    INK,
    KINDS,
    MAP,
    PICK,
    colour_bar,
    ink_on,
    network_colours,
    new_figure,
    save,
    tidy,
    written,
)
from reassembly.latency import LatencyCheck
from reassembly.partition import Partition
from reassembly.settings import Budget
from zoo.blueprint import BlockSpec

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
        path: To write, see ``figures.style.save``.
        similarity: ``(M, M)``; the nodes of a network are consecutive, its stem first.
        networks: Names.
        num_nodes: Nodes of each network (stem and body); they add up to M.
        cuts: Per network the chain's cuts (0, c1, ..., L - 1); the inner ones are drawn.
        label: Of the colour bar.
    """
    similarity = np.asarray(similarity, dtype=float)
    assert similarity.shape == (sum(num_nodes),) * 2, "num_nodes add up to the matrix"
    edges = np.cumsum([0, *num_nodes])
    size = min(max(3.2 + 0.085 * edges[-1], 4.5, 0.24 * len(networks)), 16.0)
    figure = new_figure(size + 2.6, size + 1.6)
    axes = figure.subplots()
    tidy(axes)
    least = float(np.nanmin(similarity, initial=0.0))
    image = axes.imshow(similarity, cmap=MAP, vmin=min(0.0, least), vmax=1.0, interpolation="nearest")
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
    names = [written(name, 40) for name in networks]
    axes.set_xticks(middles, names, rotation=90)
    axes.set_yticks(middles, names)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        _mark_networks(labels, networks)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Similarity of the features of nodes" + (", cuts dashed" if cuts else ""), loc="left", pad=10)
    colour_bar(figure, axes, image, f"{label}, 1 for equal features")
    return save(figure, path)


def partition_map(path: str | Path, partition: Partition, pick: Sequence[BlockSpec] = ()) -> Path:
    """Every network a row of blocks, as wide as their nodes, coloured by similarity to their set's centre.

    The number in a block is its set, a star marks the centres, a frame the blocks of the pick.

    Args:
        path: To write, see ``figures.style.save``.
        partition: What to draw.
        pick: The chosen blocks, those of the partition or several of one network as one.
    """
    values = np.array(partition.block_similarities)
    longest = max(cuts[-1] for cuts in partition.cuts)
    figure = new_figure(min(max(5.5 + 0.38 * longest, 8.5), 18.0), 2.4 + 0.46 * len(partition.networks))
    axes = figure.subplots()
    tidy(axes)
    top = float(np.nanmax(values))
    from_value = ScalarMappable(Normalize(vmin=min(float(np.nanmin(values)), top - 0.1), vmax=top), MAP)
    picked = {(block.network, node) for block in pick for node in range(*block.nodes)}
    rows = zip(partition.networks, partition.cuts, partition.sets, strict=True)
    for row, (name, cuts, sets) in enumerate(rows):
        for block, (start, stop) in enumerate(itertools.pairwise(cuts)):
            is_centre = partition.centres[sets[block]] == (row, block)
            fill, is_picked = from_value.to_rgba(values[row, block]), (name, start) in picked
            axes.add_patch(
                FancyBboxPatch(
                    (start + 0.11, row - 0.34),
                    stop - start - 0.22,
                    0.68,
                    boxstyle="round,pad=0,rounding_size=0.08",
                    facecolor=fill,
                    edgecolor=PICK if is_picked else "none",
                    linewidth=3.0 if is_picked else 0.0,
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
                color=ink_on(fill[:3]),
            )
            for node in range(start + 1, stop):
                axes.plot([node, node], [row + 0.27, row + 0.34], color="white", linewidth=0.8)
    axes.set_yticks(range(len(partition.networks)), [written(name, 40) for name in partition.networks])
    _mark_networks(axes.get_yticklabels(), partition.networks)
    axes.set_xlim(-0.1, longest + 0.1)
    axes.set_ylim(len(partition.networks) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(longest + 1, 24), integer=True))
    axes.set_xlabel("cut of the chain: the block [a, b] of a recipe runs from a to b, the stem is the node from 0 to 1")
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    verdict = "proven optimal" if partition.proven else f"at most {100 * partition.gap:.2g} % below the optimum"
    if partition.settings.mode == "even":
        verdict = "even splits"
    lines = [
        f"Partition into {partition.num_blocks} equivalence sets (numbers): J = {partition.objective:.2f}, {verdict}",
        "J: sum over all blocks of the similarity to the centre (★) of their set, of what comes in and what goes out",
    ]
    if picked:
        lines[1] += "\nframed: the blocks of the pick"
    axes.set_title("\n".join(lines), loc="left", pad=8, fontsize=10)
    colour_bar(figure, axes, from_value, "similarity to the centre, from 0 to 2")
    return save(figure, path)


def candidates_figure(
    path: str | Path,
    candidates: Sequence[Mapping],
    *,
    pick: int | None = None,
    score: str = "score",
    label: str | None = None,
    higher_is_better: bool = True,
    num_fitting: int | None = None,
    budget: Budget | None = None,
) -> Path:
    """Score of all candidates against their MACs and their parameters, with the front, the pick and the budget.

    Args:
        path: To write, see ``figures.style.save``.
        candidates: Rows with ``kind`` (assembly, truncated, network), ``macs``, ``num_params``, ``latency_ns`` (0 where
            it was not measured) and the score's column;
            ``composition`` names the pick.
        pick: Index of the chosen row.
        score: Name of the score's column; rows whose score is not finite are left out.
        label: Of the axis; the name of the column if not given.
        higher_is_better: Which end of the scores is better.
        num_fitting: How many compositions fit the budget, scored or not.
        budget: Limits to draw.
    """
    budget = budget or Budget()
    candidates = [{**row, "latency_ms": row.get("latency_ns", 0) / 1e6} for row in candidates]
    panels = [
        ("macs", "MACs of an image", budget.min_macs, budget.max_macs),
        ("num_params", "parameters", budget.min_params, budget.max_params),
    ]
    if any(row["latency_ms"] for row in candidates):
        panels.append(("latency_ms", "predicted ms", None, budget.max_latency_ms))
    figure = new_figure(5.25 * len(panels), 5.2)
    left, *others = figure.subplots(1, len(panels), sharey=True)
    shown = [row for row in candidates if np.isfinite(row[score])]
    for axes, (cost, name, least, most) in zip((left, *others), panels, strict=True):
        tidy(axes)
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
        best = pareto_front([(row[cost], row[score]) for row in shown], higher_is_better=higher_is_better)
        if len(best) > 1:
            xs, ys = zip(*best, strict=True)
            axes.plot(
                xs,
                ys,
                drawstyle="steps-post",
                color=INK,
                linewidth=1.0,
                zorder=2.5,
                label="front: none cheaper is better",
            )
        if pick is not None and np.isfinite(candidates[pick][score]):
            row = candidates[pick]
            axes.scatter(
                row[cost], row[score], s=300, marker="*", color=PICK, edgecolors="white", zorder=5, label="pick"
            )
        axes.set_xscale("log")
        axes.margins(x=0.08)
        _budget(axes, least, most)
        if cost == "latency_ms":
            axes.xaxis.set_major_formatter("{x:g}")  # no prefixes of a unit that has one
        axes.set_xlabel(name)
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    left.set_ylabel(label or score.replace("_", " "))
    if label and label.endswith("%"):
        left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    figure.suptitle(_heading(candidates, shown, pick, num_fitting), x=0.01, ha="left", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return save(figure, path)


def latency_figure(path: str | Path, checks: Sequence[LatencyCheck]) -> Path:
    """What whole networks take against what was predicted of them, with a band of 10 % about equality.

    Args:
        path: To write, see ``figures.style.save``.
        checks: The pick first.
    """
    figure = new_figure(5.6, 5.2)
    axes = figure.subplots()
    tidy(axes)
    predicted, measured = ([getattr(check, name) for check in checks] for name in ("predicted_ms", "measured_ms"))
    ends = np.array([min(predicted + measured) / 1.2, max(predicted + measured) * 1.2])
    axes.plot(ends, ends, color=INK, linewidth=1.0, label="as predicted")
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=FAINT, alpha=0.25, linewidth=0, label="within 10 %")
    axes.scatter(predicted[1:], measured[1:], s=46, edgecolors="white", zorder=3, label="other candidates")
    axes.scatter(predicted[:1], measured[:1], s=300, marker="*", color=PICK, edgecolors="white", zorder=4, label="pick")
    axes.set(xscale="log", yscale="log", xlabel="predicted ms", ylabel="measured ms")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[tuple[float, float]]:
    """Of points (cost, score) those than which none is better at the same or a lower cost, cheapest first."""
    sign = 1 if higher_is_better else -1
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * score > sign * front[-1][1]:
            front.append((cost, score))
    return front


def _heading(candidates: Sequence[Mapping], shown: Sequence[Mapping], pick: int | None, num_fitting: int | None) -> str:
    counts = f"{len(candidates):,} scored"
    if num_fitting is not None:
        fitting = "1 composition fits" if num_fitting == 1 else f"{num_fitting:,} compositions fit"
        counts = f"{fitting} the budget, {counts}"
    if unusable := len(candidates) - len(shown):
        counts += f", {unusable:,} without a finite score"
    named = candidates[pick].get("composition") if pick is not None else None
    return f"{counts}\npick: {written(named, 130)}" if named else counts


def _budget(axes, least: int | None, most: int | None) -> None:
    """Shades what the budget refuses, and labels the axis of costs."""
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
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _mark_networks(labels: Sequence, networks: Sequence[str]) -> None:
    """Writes the names of networks in their colours."""
    for text, colour in zip(labels, network_colours(networks).values(), strict=True):
        text.set_bbox({"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none", "alpha": 0.25})
