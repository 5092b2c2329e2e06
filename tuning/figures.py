"""Figures of a training: its curves, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from figures.style import FAINT, INK, LOSS, MAP, ORIGINAL, PICK, colour_bar, ink_on, new_figure, save, tidy, written

MAX_CLASSES = 30
"""So many classes have a row each in the confusion matrix; of more, the worst confusions are drawn."""

ENDS = {"start": "s", "tuned": "o", "refitted": "^", "averaged": "D"}


def training_figure(
    path: str | Path,
    curves: Sequence[Mapping[str, float]],
    choice: str,
    val_accuracies: Mapping[str, float],
    val_losses: Mapping[str, float],
) -> Path:
    """Loss and accuracy over the epochs, training and validation; what the network could end with is marked.

    Args:
        path: To write, see ``figures.style.save``.
        curves: ``TuningResult.curves``: the start, then a row per epoch.
        choice: Which candidate was kept.
        val_accuracies: Of the candidates, by name.
        val_losses: Likewise.
    """
    figure = new_figure(9.6, 3.9)
    epochs = [row["epoch"] for row in curves]
    best = max(curves[1:], key=lambda row: row["val/accuracy"])["epoch"]  # the earlier of equals
    at = {"start": 0, "tuned": best}
    for axes, name, values, factor in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (val_losses, val_accuracies), (1, 100), strict=True
    ):
        tidy(axes)
        axes.plot(epochs[1:], [factor * row[f"train/{name}"] for row in curves[1:]], color=FAINT, label="training")
        axes.plot(epochs, [factor * row[f"val/{name}"] for row in curves], color=ORIGINAL, label="validation")
        for candidate, value in values.items():
            is_choice = candidate == choice
            axes.plot(
                *([at.get(candidate, epochs[-1])], [factor * value]),
                marker=ENDS.get(candidate, "*"),
                markersize=9 if is_choice else 6,
                color=PICK if is_choice else INK,
                linestyle="none",
                zorder=4 if is_choice else 3,
                label=f"{candidate} (kept)" if is_choice else candidate,
            )
        axes.set(xlabel="epoch", ylabel="loss" if name == "loss" else "accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return save(figure, path)


def confusion_figure(path: str | Path, confusion: np.ndarray, names: Sequence[str], *, split: str = "test") -> Path:
    """The confusion matrix with the names of the classes, or the worst confusions where there are many.

    Args:
        path: To write, see ``figures.style.save``.
        confusion: Numbers of images (C, C), rows are labels, columns predictions.
        names: Of the classes.
        split: That was measured.
    """
    if len(names) > MAX_CLASSES:
        return _worst_confusions(path, confusion, names, split)
    names = [written(name, 24) for name in names]
    counts = confusion.sum(axis=1, keepdims=True)
    shares = 100 * confusion / np.maximum(counts, 1)
    longest = max(map(len, names))
    size = max(0.42 * len(names), 2.0)
    figure = new_figure(size + 2.0 + 0.07 * longest, size + 1.2 + 0.07 * longest)
    axes = figure.subplots()
    tidy(axes)
    image = axes.imshow(shares, cmap=MAP, vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(confusion):
        if value:
            colour = ink_on(image.cmap(image.norm(shares[row, column]))[:3])
            axes.text(column, row, f"{value}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="prediction", ylabel="class")
    axes.set_title(f"Confusions of {int(confusion.sum()):,} {split} images", loc="left", pad=10)
    colour_bar(figure, axes, image, "share of the class, %")
    return save(figure, path)


def _worst_confusions(path: str | Path, confusion: np.ndarray, names: Sequence[str], split: str) -> Path:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CLASSES]
    pairs = [divmod(int(i), len(names)) for i in order if wrong.flat[i] > 0]
    figure = new_figure(7.5, 1.4 + 0.22 * max(len(pairs), 1))
    axes = figure.subplots()
    tidy(axes)
    counts = [int(wrong[pair]) for pair in pairs]
    axes.barh(range(len(pairs)), counts, color=LOSS)
    for place, ((label, _), count) in enumerate(zip(pairs, counts, strict=True)):
        axes.text(count, place, f" {count} of {int(confusion[label].sum())}", va="center", fontsize=7, color=INK)
    told = [f"{written(names[label], 24)} → {written(names[prediction], 24)}" for label, prediction in pairs]
    axes.set_yticks(range(len(pairs)), told, fontsize=8)
    axes.set(xlabel=f"{split} images of the first class taken for the second", ylim=(len(pairs) - 0.4, -0.6))
    axes.margins(x=0.15)
    total = int(confusion.sum())
    axes.set_title(f"Worst confusions of {len(names)} classes, {int(wrong.sum()):,} of {total:,} wrong", loc="left")
    return save(figure, path)
