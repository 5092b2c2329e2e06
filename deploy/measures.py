"""What is measured of predictions: accuracy, per class, confusion matrix, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Probabilities of a model for labelled images, and what they are worth.

    Attributes:
        classes: Names by output.
        logits: float32 (n, C).
        labels: int64 (n,).
    """

    classes: tuple[str, ...]
    logits: Tensor
    labels: Tensor

    @property
    def probabilities(self) -> Tensor:
        """float32 (n, C)."""
        return self.logits.softmax(1)

    @property
    def accuracy(self) -> float:
        """Share of images whose class is named first, rounded as training rounds it."""
        return self._top(1)

    def top(self, k: int) -> float:
        """Share of images whose class is among the k named first."""
        return self._top(k)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return torch.nn.functional.cross_entropy(self.logits, self.labels).item()

    def confusion(self) -> Tensor:
        """int64 (C, C): how many images of the class of the row were named by the class of the column."""
        size = len(self.classes)
        return torch.bincount(self.labels * size + self.logits.argmax(1), minlength=size * size).view(size, size)

    def calibration_error(self, num_bins: int = NUM_BINS) -> float:
        """Expected calibration error: mean gap between confidence and accuracy over equal bins of confidence.

        Source: Guo et al., On Calibration of Modern Neural Networks, 2017, eq. 3.
        """
        confidence, named = self.probabilities.double().max(1)
        right = (named == self.labels).double()
        bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
        gaps = torch.zeros(num_bins, dtype=torch.float64).index_add(0, bins, right - confidence)
        return (gaps.abs().sum() / len(self.labels)).item()

    def per_class(self) -> list[dict[str, Any]]:
        """Of each class: number of images, accuracy (recall), precision and F1; None is 0 of 0."""
        matrix = self.confusion()
        rows = []
        for output, name in enumerate(self.classes):
            right, given, named = (
                int(t) for t in (matrix[output, output], matrix[output].sum(), matrix[:, output].sum())
            )
            recall, precision = _share(right, given), _share(right, named)
            f1 = _share(2 * right, given + named)
            rows.append({"class": name, "num_images": given, "accuracy": recall, "precision": precision, "f1": f1})
        return rows

    def summary(self) -> dict[str, Any]:
        """All of it but the predictions, as plain data."""
        per_class = self.per_class()
        present = [row["accuracy"] for row in per_class if row["accuracy"] is not None]
        return {
            "num_images": len(self.labels),
            "accuracy": self.accuracy,
            "mean_class_accuracy": round(sum(present) / len(present), 6),
            **({"top5_accuracy": self.top(5)} if len(self.classes) > 5 else {}),
            "loss": round(self.loss, 6),
            "expected_calibration_error": round(self.calibration_error(), 6),
            "mean_confidence": round(self.probabilities.max(1).values.mean().item(), 6),
            "per_class": per_class,
            "confusion": {"classes": list(self.classes), "rows_true_columns_named": self.confusion().tolist()},
        }

    def _top(self, k: int) -> float:
        right = (self.logits.topk(k, dim=1).indices == self.labels[:, None]).any(1) if k > 1 else self._right()
        return round((right.sum().float() / len(right)).item(), 6)  # in float32, as training divides

    def _right(self) -> Tensor:
        return self.logits.argmax(1) == self.labels


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
