"""What a network was tuned on, kept with its weights: enough to know the same images again, and none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.storage.plain import parse_json
from zoo.storage.records import from_plain, to_plain

if TYPE_CHECKING:
    from torch import Tensor

MAX_SAMPLE = 2048


@dataclass(frozen=True)
class SeenImages:
    """The data of one training. Images go by keys: equal for equal images, whatever their label, split or place.

    Attributes:
        name: Of the data.
        classes: By name, what the keys of all images of the class add up to, in hexadecimal digits.
        sample: The smallest keys of the training images, at most ``MAX_SAMPLE``, in rising order.
    """

    name: str
    classes: Mapping[str, str]
    sample: tuple[int, ...]

    @classmethod
    def of(cls, name: str, class_names: Sequence[str], labels: Tensor, keys: Tensor, train: Tensor) -> SeenImages:
        """The record of a data set.

        Args:
            name: Of the data.
            class_names: By label.
            labels: Of all images, int64 (n,); negative ones have no class.
            keys: Of all images, int64 (n,), 0 or above.
            train: Indices of the training images, int64.
        """
        import torch

        known = labels >= 0
        sums = torch.zeros(len(class_names), dtype=torch.int64).index_add_(0, labels[known], keys[known])
        digests = (f"{value & (1 << 64) - 1:016x}" for value in sums.tolist())
        sample = keys[train].unique()[:MAX_SAMPLE].tolist()
        return cls(name, dict(zip(class_names, digests, strict=True)), tuple(sample))

    def share_of(self, keys: Tensor) -> float:
        """About which share of images with these keys, int64 (n,), was trained on; exact below ``MAX_SAMPLE`` images.

        The smallest keys are a random sample of both sets: among the keys up to the largest of the sample, those that
        are in it were trained on.
        """
        import torch

        sample = torch.tensor(self.sample, dtype=torch.int64)
        if len(sample) == MAX_SAMPLE:
            keys = keys[keys <= sample[-1]]
        return torch.isin(keys, sample).double().mean().item() if len(keys) else 0.0


def to_json(seen: Sequence[SeenImages]) -> str:
    """The records of all trainings as text."""
    return json.dumps(to_plain(seen), separators=(",", ":"))


def from_json(text: str, where: str) -> tuple[SeenImages, ...]:
    """Reads what ``to_json`` wrote, strictly; ``where`` begins every message."""
    plain = parse_json(text, where)
    if not isinstance(plain, list):
        raise UserError(f"{where}: what it was tuned on is no list: copy the bundle anew")
    return tuple(from_plain(SeenImages, row, where) for row in plain)
