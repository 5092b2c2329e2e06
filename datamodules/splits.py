"""Which image belongs to which split, fixed by a seed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from datamodules.checks import require_count, require_share
from zoo.errors import UserError
from zoo.storage.records import neighbours

log = logging.getLogger(__name__)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """An order of the images in which every consecutive slice holds the classes in their shares of the whole.

    The images are shuffled; each then gets its relative rank inside its class, and the ranks are sorted. Splits are
    consecutive slices of the order, and the first images of a split stand for the split.

    Args:
        labels: int64 (n,).
        seed: Fixes the shuffle.

    Returns:
        int64 permutation (n,).
    """
    shuffle = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, which, counts = labels[shuffle].unique(return_inverse=True, return_counts=True)
    by_class = which.argsort(stable=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels)) - first + 0.5).double() / counts.repeat_interleave(counts)
    return shuffle[rank.argsort(stable=True)]


def cut(order: Tensor, sizes: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Consecutive slices of an order.

    Args:
        order: int64 (n,).
        sizes: Number of images per configuration key (`num_train`); None takes what the others leave, once.

    Raises:
        UserError: A size that is no whole number above 0, more images than there are, or nothing left for None.
    """
    for key, size in sizes.items():
        if size is not None:
            require_count(key, size, at_least=1)
    rest = len(order) - sum(size for size in sizes.values() if size is not None)
    for key, size in sizes.items():
        if size is None and rest < 1:
            given = " ".join(f"dataset.{other}={size}" for other, size in sizes.items() if size is not None)
            raise UserError(f"{given} leave none of {len(order)} images for dataset.{key}; lower one of them")
    if rest < 0:
        given = " ".join(f"dataset.{key}={size}" for key, size in sizes.items() if size is not None)
        raise UserError(f"{given}: the data has {len(order)} images for these; lower one of them by {-rest}")
    chosen = [rest if size is None else size for size in sizes.values()]
    parts = order[: sum(chosen)].split(chosen)
    return dict(zip(sizes, parts, strict=True))


def complete(
    given: Mapping[str, Tensor], labels: Tensor, class_names: Sequence[str], shares: Mapping[str, float], seed: int
) -> tuple[dict[str, Tensor], str]:
    """Three splits, of which those that are not given are cut out of the training images by seed, stratified.

    Args:
        given: Indices, int64 (n,), of `train`, and of `val` and `test` where the data has them.
        labels: Of all images, int64 (n,).
        class_names: By label.
        shares: Per configuration key (`validation_share`, `test_share`) the share of the training images that is cut
            out where that split is missing.
        seed: Of the order inside each split, too.

    Returns:
        The splits, each in a stratified order, and how they came about, in words.

    Raises:
        UserError: A share out of range, too few images, a label without a class, or a class without a training image.
    """
    for split, indices in given.items():
        beyond = labels[indices][(labels[indices] < 0) | (labels[indices] >= len(class_names))]
        if len(beyond):
            raise UserError(
                f"dataset.root: {split} has label {int(beyond[0])} ({len(beyond)} images with such); expected 0 to "
                f"{len(class_names) - 1}: the files are damaged, or another data set's"
            )
    for key, share in shares.items():
        require_share(key, share)
    splits = {split: indices[stratified_order(labels[indices], seed)] for split, indices in given.items()}
    num_train = len(splits["train"])
    keys = {_SPLITS[key]: key for key in shares if _SPLITS[key] not in given}
    sizes = {split: max(1, round(shares[key] * num_train)) for split, key in keys.items()}
    if num_train <= sum(sizes.values()):
        lower = f", or lower {' and '.join(f'dataset.{key}' for key in keys.values())}" if keys else ""
        raise UserError(
            f"dataset.root: {num_train} training images are too few to cut {' and '.join(sizes) or 'any'} out of "
            f"them; add images{lower}"
        )
    splits |= cut(splits["train"], {"train": None, **sizes})
    how = f"{', '.join(given)} as given"
    if sizes:
        how += f"; {', '.join(sizes)} cut out of train by seed {seed}, stratified"
    for split, indices in splits.items():
        counts = labels[indices].bincount(minlength=len(class_names))
        without = [class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
        if without and split == "train":
            raise UserError(
                f"dataset.root: no training image is left of {_some(without)}; add images, leave the class out, or "
                "lower dataset.validation_share and dataset.test_share"
            )
        if without:
            log.warning("the %s split has no image of %s: nothing is measured of them", split, _some(without))
    return splits, how


def select_classes(labels: Tensor, known: Mapping[int, str], wanted: Sequence[str]) -> Tensor:
    """Labels that count the wanted classes in their order, and -1 for all others.

    Args:
        labels: int64 (n,).
        known: Names of the classes by label.
        wanted: Names of at least two classes.

    Raises:
        UserError: A class that does not exist or is named twice, or fewer than two.
    """
    unknown = [name for name in wanted if name not in known.values()]
    if unknown:
        raise UserError(f"dataset.classes: unknown class {unknown[0]!r}: {neighbours(unknown[0], known.values())}")
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise UserError(f"dataset.classes={list(wanted)}: expected at least two classes, each once")
    selected = torch.full_like(labels, -1)
    for label, name in known.items():
        if name in wanted:
            selected[labels == label] = wanted.index(name)
    return selected


_SPLITS = {"validation_share": "val", "test_share": "test"}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more classes" if len(names) > 3 else ""
    return f"class {', '.join(names[:3])}{more}"
