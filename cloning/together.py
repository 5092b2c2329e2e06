"""Choices of several sources compared as what they make together: one cloned network, one head.

A module that serves well beside the target alone may serve badly beside the others, and the sum of losses does not
tell; the head that all share is a convex problem of a few hundred samples, solved in a moment.

Differs from the paper: there every source is localised and inserted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cloning.choice import Combination, PositionResult
from cloning.clone import Clone
from cloning.fitting import compared_logits, fit_adapter, network_features
from cloning.frozen import FrozenNetwork
from cloning.measures import accuracies_of_logits, mean
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.settings import Share


@dataclass
class Together:
    """Measures a row per source in one network; what it was asked is in ``known``.

    Adapters are those in closed form.

    Attributes:
        target: The network that receives.
        modules: By source, by what of it they are.
        kept: The target's classes that stay.
        train: Correction samples, labelled by ``kept`` and then the classes of each source.
        val: Validation samples, labelled likewise.
        seed: Of the folds that adapters are fitted in.
        precision: Of the networks' products.
        head_cuts: As of ``ClonedNetwork``.
    """

    target: FrozenNetwork
    modules: Sequence[Mapping[Share, Clone]]
    kept: Sequence[str]
    train: Samples
    val: Samples
    seed: int
    precision: torch.dtype | None = None
    head_cuts: Sequence[int] = ()
    known: dict[tuple[PositionResult, ...], Combination] = field(default_factory=dict)
    _features: dict[tuple[int, Share, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, rows: tuple[PositionResult, ...]) -> Combination:
        """With the class-balanced cross-entropy of the validation samples and the mean of both accuracies there."""
        if rows not in self.known:
            loss, original, cloned = self._compare(rows)
            summed = Combination.summed(rows)
            self.known[rows] = replace(summed, loss=loss, val_original=original, val_cloned=cloned)
        return self.known[rows]

    @torch.no_grad()
    def _compare(self, rows: Sequence[PositionResult]) -> tuple[float, float, float]:
        clones = [self._clone(place, row) for place, row in enumerate(rows)]
        parts = [self._of(place, row) for place, row in enumerate(rows)]
        classes = [*self.kept, *(name for clone in clones for name in clone.classes)]
        at_image = [replace(clone, position=0) for clone in clones]
        network = ClonedNetwork(self.target, classes, at_image, [None] * len(clones), self.head_cuts)
        own = network.num_target_features
        train, val = (
            (torch.cat([parts[0][side][:, :own], *(part[side][:, own:] for part in parts)], dim=1), split.labels)
            for side, split in enumerate((self.train, self.val))
        )
        logits, loss = compared_logits(network.to(self.train.images.device), train, val)
        accuracies = accuracies_of_logits(logits, self.val.labels, len(classes))
        sides = [mean(part) or 0.0 for part in (accuracies[: len(self.kept)], accuracies[len(self.kept) :])]
        return loss, *sides

    def _clone(self, place: int, row: PositionResult) -> Clone:
        module = self.modules[place][row.share]
        return module if row.position == 0 else replace(module, position=row.position)

    def _of(self, place: int, row: PositionResult) -> tuple[Tensor, Tensor]:
        """What a head would read of the target and this one clone, (n, d), of either split."""
        key = (place, row.share, row.position)
        if key not in self._features:
            clone, device = self._clone(place, row), self.train.images.device
            fit = fit_adapter(self.target, clone, self.train.images, kernel_size=row.kernel_size, seed=self.seed)
            classes, adapter = [*self.kept, *clone.classes], fit.adapter if fit else None
            network = ClonedNetwork(self.target, classes, [clone], [adapter], self.head_cuts).to(device)
            self._features[key] = tuple(
                network_features(network, samples.images, self.precision) for samples in (self.train, self.val)
            )
        return self._features[key]
