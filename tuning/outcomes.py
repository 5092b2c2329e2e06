"""What a network makes of the images of a split: mean loss, accuracy by class, confusions, top-5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from tuning.distributed import gather_rows

TOP5_ABOVE_CLASSES = 20
"""With so many classes or fewer, top-5 accuracy says little."""


class ImageMean(Metric):
    """The mean over all images, of a loss or of what is right; not finite where one of them is not.

    ``torchmetrics.MeanMetric`` waits for the device at every batch to look for NaN, or else forgets the weights.
    """

    is_differentiable, higher_is_better, full_state_update = False, False, False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Takes in a batch: the sum over its images, and their number."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


@dataclass(frozen=True)
class Outcomes:
    """Labels and predictions of the images of a split.

    Attributes:
        labels: int64 (n,).
        predictions: int64 (n,), the classes of the largest logits.
        in_top5: bool (n,), whether the label is among the five largest logits.
        num_classes: Of the network.
    """

    labels: Tensor
    predictions: Tensor
    in_top5: Tensor
    num_classes: int

    @property
    def confusion(self) -> Tensor:
        """Numbers of images, int64 (C, C): rows are labels, columns predictions."""
        size = self.num_classes
        return torch.bincount(self.labels * size + self.predictions, minlength=size * size).view(size, size)

    @property
    def top5_accuracy(self) -> float | None:
        """Share of the images whose class is among the first five; None up to ``TOP5_ABOVE_CLASSES`` classes."""
        return float(self.in_top5.double().mean()) if self.num_classes > TOP5_ABOVE_CLASSES else None

    def class_accuracies(self, names: Sequence[str]) -> dict[str, float | None]:
        """Accuracy by class; None where there is no image of it."""
        counts = torch.bincount(self.labels, minlength=self.num_classes).tolist()
        right = torch.bincount(self.labels[self.labels == self.predictions], minlength=self.num_classes).tolist()
        return {n: r / c if c else None for n, r, c in zip(names, right, counts, strict=True)}


class OutcomesCollector:
    """Takes in the logits of one batch after the other, on the device, and gathers those of all processes."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Takes in logits (b, C) and labels (b,)."""
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        self._batches.append((labels, logits.argmax(1), (top == labels[:, None]).any(1)))

    def gathered(self) -> Outcomes:
        """What was taken in, in all processes, on the CPU; every process has to ask."""
        columns = (torch.cat(column) for column in zip(*self._batches, strict=True))
        labels, predictions, in_top5 = (gather_rows(column).cpu() for column in columns)
        return Outcomes(labels, predictions, in_top5, self._num_classes)
