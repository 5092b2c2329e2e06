"""Images that lie in files: listed without being read, read one by one."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import BeyondWhite, Decoded, Decoding, UnreadableImage, decode
from datamodules.images import ChooseBox, LabelledImages, as_float
from datamodules.listing import examples
from datamodules.manifest import printable
from zoo.errors import UserError

__all__ = ["ImagesInFiles", "UnreadableImage", "read_image", "tell_copies", "tell_range"]

log = logging.getLogger(__name__)

_REMARKS = ("frames", "transparency", "flat")
_SURVEYED = 32
_MOST_CHECKED, _CHECKED_BYTES = 300, 1 << 23  # of each split
_MOST_COMPARED, _COMPARED_BYTES = 3_000, 1 << 14


class ImagesInFiles(LabelledImages):
    """Image files, read when they are asked for.

    The digest covers the files' paths below `root`, their sizes, times of change and labels, not their contents: a
    million files are listed in seconds and read in hours. A copy that keeps the times (`cp -p`, `rsync -t`) keeps the
    digest.

    Args:
        root: Where the names start.
        names: Paths below `root`, with `/`.
        labels: int64 (n,).
        decoding: What the files leave open.

    Raises:
        UserError: A file that is not there, or empty.
    """

    digest_covers = "file names, file sizes, times of change and labels"
    sizes_vary = " as read (the first; others may differ)"

    def __init__(self, root: Path, names: Sequence[str], labels: Tensor, decoding: Decoding | None = None) -> None:
        self.labels = labels
        self._root, self._decoding = os.fspath(root), decoding or Decoding()
        # One string instead of a million objects: worker processes share it, for no reference count is written to.
        encoded = [os.fsencode(name) for name in names]
        self._names, self._ends = b"".join(encoded), np.cumsum([0, *map(len, encoded)])
        self._status = np.array([_size_and_time(f"{self._root}/{name}") for name in names], np.int64).reshape(-1, 2)
        empty = [names[index] for index in np.flatnonzero(self._status[:, 0] == 0)]
        if empty:
            raise UserError(
                f"{printable(self._root)}: {len(empty)} image files are empty ({examples(empty)}); "
                "fetch them anew or remove them"
            )
        sha256 = hashlib.sha256()
        for name, status, label in zip(encoded, self._status.tolist(), labels.tolist(), strict=True):
            sha256.update(b"%b\0%d\0%d\0%d\n" % (name, *status, label))
        if self._decoding != Decoding():
            sha256.update(f"{self._decoding.colour}\0{self._decoding.white_level}".encode())
        self.digest = f"sha256:{sha256.hexdigest()}"
        # Shared, so that each remark is made once, whichever worker process meets its cause first.
        self._told = torch.zeros(len(_REMARKS), dtype=torch.uint8).share_memory_()

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return Path(self._root, self.name(index))

    def name(self, index: int) -> str:
        """The path of an image below the root."""
        return os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])

    def listed(self, index: int) -> tuple[str, int, int]:
        return self.name(index), *self._status[index].tolist()

    def sizes_bytes(self, indices: Tensor) -> np.ndarray:
        """Sizes of files, int64 (k,)."""
        return self._status[indices.numpy(), 0]

    def image(self, index: int) -> Tensor:
        return self.decoded(index).pixels

    def window(self, index: int, choose: ChooseBox) -> Tensor:
        return self.decoded(index, choose).pixels

    def decoded(self, index: int, choose: ChooseBox | None = None) -> Decoded:
        """One image or a part of it, and what its file says; what was done to it is told once for all images."""
        path = self.path(index)
        found = decode(path, self._decoding, choose)
        for kind, remark in found.remarks.items():
            told = self._told[_REMARKS.index(kind)]
            if not told:
                told.fill_(1)
                log.warning("%s has %s; so may others, this is told once", printable(str(path)), remark)
        return found


def read_image(path: Path, decoding: Decoding | None = None) -> Tensor:
    """Colour (3, H, W), upright: uint8, or float32 in [0, 1] where the file holds more than 8 bits a channel.

    What is transparent gets the background; of several frames the first is taken; both are told in the log, as are 16
    bits of which few are used.

    Raises:
        UnreadableImage: See `decoding.decode`.
    """
    found = decode(path, decoding or Decoding())
    for remark in found.remarks.values():
        log.warning("%s has %s", printable(str(path)), remark)
    if found.pixels.is_floating_point():
        told = _little_used(float(found.pixels.min()), float(found.pixels.max()), found.white, has_level=True)
        if told:
            log.warning("%s holds %s", printable(str(path)), told)
    return found.pixels


def check_readable(source: ImagesInFiles, splits: Mapping[str, Tensor]) -> None:
    """Reads images of every split, as far as that takes about a second: what is broken is better named before training.

    Raises:
        UnreadableImage: All of these that cannot be read, by name.
    """
    broken: dict[str, dict[str, UnreadableImage]] = {}
    depths = set()
    for indices in splits.values():
        within = np.cumsum(source.sizes_bytes(indices)) <= _CHECKED_BYTES
        for index in indices[within][:_MOST_CHECKED].tolist():
            try:
                depths.add(source.decoded(index).depth)
            except UnreadableImage as error:
                depths.add(depth := error.depth if isinstance(error, BeyondWhite) else "")
                broken.setdefault(depth, {})[source.name(index)] = error
    if broken:
        told = [_told_together(broken[depth], depths) for depth in sorted(broken)]  # what is no image first
        raise UnreadableImage("; ".join(told))


def _told_together(errors: Mapping[str, UnreadableImage], depths: Set[str]) -> str:
    """What is wrong with images that have the same fault, by name, and what to do; the depths are those of all."""
    (_, first), *others = errors.items()
    levels = [error.level for error in errors.values() if isinstance(error, BeyondWhite)]
    verbs = ("does", "do") if levels else ("is", "are")
    names = examples([name for name, _ in others])
    more = f"; so {verbs[len(others) > 1]} {len(others)} more ({names})" if others else ""
    if not isinstance(first, BeyondWhite):
        return f"{first}{more}"
    way = "rescale them" if others else "rescale it"
    if depths >= {"16 bits", "floating-point numbers"}:
        way += " (dataset.white_level is one for images of 16 bits and of floating-point numbers, which are mixed here)"
    elif None not in levels:
        way += f", or set dataset.white_level={max(filter(None, levels)):g}"
    return f"{first.told}{more}; {way}"


def tell_range(source: ImagesInFiles, indices: Tensor) -> None:
    """Looks at the first of some images, and says where they use less than half of the values between black and white.

    Images of each depth by themselves: few that are all black hide behind others.

    Raises:
        UnreadableImage: One of them is broken.
    """
    ranges: dict[str, tuple[float, float, float]] = {}
    for index in indices[:_SURVEYED].tolist():
        found = source.decoded(index)
        values = as_float(found.pixels)
        low, high, _ = ranges.get(found.depth, (math.inf, -math.inf, found.white))
        ranges[found.depth] = min(low, float(values.min())), max(high, float(values.max())), found.white
    has_one_level = len(ranges.keys() - {"8 bits"}) == 1
    for depth, extent in ranges.items():
        if told := _little_used(*extent, has_level=has_one_level and depth != "8 bits"):
            which = f"those of {depth} among the first" if len(ranges) > 1 else "the first"
            log.warning("%s %d training images hold %s", which, len(indices[:_SURVEYED]), told)


def _little_used(low: float, high: float, white: float, *, has_level: bool) -> str | None:
    """What to say of values between `low` and `high`, shares of `white`, where they use less than half of its range.

    Args:
        has_level: Another `dataset.white_level` may be advised.
    """
    if high - low >= 0.5:
        return None
    way = "rescale the files if that is not meant"
    if has_level and high > 0:
        level = 2 ** round(high * white).bit_length() - 1 if white > 1 else high
        way = f"set dataset.white_level={level:g} if that is white"
    return f"values from {low * white:.6g} to {high * white:.6g} where white is {white:g}: nearly one shade; {way}"


def tell_copies(source: ImagesInFiles, splits: Mapping[str, Tensor]) -> None:
    """Says how many images of validation and test are in an earlier split, too, and how many have two labels.

    Byte for byte; only files of one size are compared, the first 3,000 of each split, by their first 16 KiB.
    """
    sizes = {split: source.sizes_bytes(indices) for split, indices in splits.items()}
    once, times = np.unique(np.concatenate(list(sizes.values())), return_counts=True)
    suspects = [
        (split, index)
        for split, indices in splits.items()
        for index in indices[np.isin(sizes[split], once[times > 1])][:_MOST_COMPARED].tolist()
    ]
    seen: dict[bytes, tuple[str, int]] = {}
    copies: dict[tuple[str, str], list[str]] = {}
    relabelled: list[str] = []
    for split, index in suspects:
        with source.path(index).open("rb") as file:
            head = hashlib.sha256(b"%d\0%b" % (source.listed(index)[1], file.read(_COMPARED_BYTES))).digest()
        first, other = seen.setdefault(head, (split, index))
        same = f"{source.name(index)} is {source.name(other)}"
        if first != split:
            copies.setdefault((split, first), []).append(same)
        if source.labels[index] != source.labels[other]:
            relabelled.append(same)
    for (split, first), names in copies.items():
        log.warning(
            "%d images of %s are copies of images of %s (%s): its figures are not of unseen images",
            *(len(names), split, first, examples(names, 1)),
        )
    if relabelled:
        log.warning(
            "%d images are copies of images of another class (%s): one of the two labels is wrong",
            *(len(relabelled), examples(relabelled, 1)),
        )


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(
            f"{printable(path)} is listed in the data and not there ({error.strerror}); unpack the data anew"
        ) from error
    return status.st_size, status.st_mtime_ns
