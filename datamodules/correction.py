"""Weak data: a share of some classes and a few exemplars of others, out of any data module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.batches import BatchOrder, ImageLoader, Split, derived_generator
from datamodules.renumbered import Relabelled
from zoo.errors import UserError
from zoo.storage.records import neighbours


class CorrectionData(ImageDataModule):
    """Some classes of a data module in a chosen order; few training images, all of validation and test.

    Training batches hold all classes in equal shares: the images of smaller classes come several times in an epoch.

    Args:
        parent: Where the images come from.
        classes: Names of the classes wanted, by their new labels.
        cloned: Those of which ``fraction`` of the training images are taken; of the others it is ``exemplars``.
        fraction: In (0, 1].
        exemplars: Number of images per class; 0 takes none.

    Attributes:
        lacking: What was asked for and is not there, in words, one for each class.
        left_out: The classes of the parent that are not wanted.

    Raises:
        UserError: A class that the data does not have, or of which it has no training image.
    """

    def __init__(
        self,
        parent: ImageDataModule,
        *,
        classes: Sequence[str],
        cloned: Sequence[str],
        fraction: float,
        exemplars: int,
    ) -> None:
        for name in classes:
            if name not in parent.class_names:
                raise UserError(
                    f"{parent.name} has no images of class {name!r}: {neighbours(name, parent.class_names)}"
                )
        lacking: list[str] = []
        source = Relabelled(parent._source, [parent.class_names.index(name) for name in classes])
        train, generator = [torch.empty(0).long()] * len(classes), derived_generator(parent.seed, "correction")
        images = parent._splits["train"]
        for index, name in enumerate(parent.class_names):  # of all, so that a class has its images in whatever company
            members = images[parent._source.labels[images] == index]
            members = members[torch.randperm(len(members), generator=generator)]
            if name not in classes:
                continue
            count = max(1, round(fraction * len(members))) if name in cloned else exemplars
            if len(members) and count > len(members):
                lacking.append(f"{name} has {len(members)} training images, {exemplars} exemplars were asked for")
            if name in cloned and fraction * len(members) < 1:
                lacking.append(f"{fraction:g} of the {len(members)} training images of {name} is less than one")
            if count and not len(members):
                raise UserError(
                    f"{parent.name} has no training image of class {name!r}; add some, or leave the class out"
                )
            train[classes.index(name)] = members[:count]
        splits = {"train": torch.cat(train)}
        for split in ("val", "test"):
            indices = parent._splits[split]
            splits[split] = indices[source.labels[indices] >= 0]
        super().__init__(
            name=parent.name,
            source=source,
            splits=splits,
            class_names=classes,
            seed=parent.seed,
            split_rule=parent._split_rule,
            **parent.options,
        )
        self.input, self.lacking = parent.input, tuple(lacking)
        self.left_out = tuple(name for name in parent.class_names if name not in classes)

    def missing(self, split: str) -> tuple[str, ...]:
        """The classes of which a split has no image."""
        present = set(self.labels(split).tolist())
        return tuple(name for label, name in enumerate(self.class_names) if label not in present)

    def train_dataloader(self) -> ImageLoader:
        """Batches of (images, labels) with all classes in equal shares."""
        loader = super().train_dataloader()
        order = _BalancedOrder(loader.dataset, self._source.labels[self._splits["train"]], self.batch_size, self.seed)
        return ImageLoader(loader.dataset, order, **self._loading)


class _Repeated:
    """A split as long as its largest class times its classes: what the order of batches counts."""

    def __init__(self, split: Split, labels: Tensor) -> None:
        largest = int(torch.bincount(labels).max())
        positions = [(labels == label).nonzero().flatten() for label in labels.unique()]
        self.positions = torch.cat([part.repeat(-(-largest // len(part)))[:largest] for part in positions])
        self.set_epoch = split.set_epoch

    def __len__(self) -> int:
        return len(self.positions)


class _BalancedOrder(BatchOrder):
    """Shuffled batches over a split in which every class comes equally often."""

    def __init__(self, split: Split, labels: Tensor, batch_size: int, seed: int) -> None:
        repeated = _Repeated(split, labels)
        super().__init__(repeated, batch_size, shuffle=True, seed=seed)
        self._positions = repeated.positions

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield self._positions[batch].tolist()
