"""Image files: found in folders, listed without being read, read one by one."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.images import LabelledImages
from zoo.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, Image.DecompressionBombError)


class UnreadableImage(UserError):
    """A file that is no image, by name."""

    def __init__(self, message: str) -> None:
        # A worker process hands its error over with the traceback in front; the last line is what was told.
        told = message.strip().splitlines()[-1]
        super().__init__(told.removeprefix(f"{__name__}.{type(self).__name__}: "))


class ImagesInFiles(LabelledImages):
    """Image files, read when they are asked for.

    The digest covers the files' paths below `root`, their sizes, times of change and labels, not their contents: a
    million files are listed in seconds and read in hours. A copy that keeps the times (`cp -p`, `rsync -t`) keeps the
    digest.

    Args:
        root: Where the names start.
        names: Paths below `root`, with `/`.
        labels: int64 (n,).

    Raises:
        UserError: A file that is not there.
    """

    digest_covers = "file names, file sizes, times of change and labels"
    sizes_vary = " (the first; sizes vary)"

    def __init__(self, root: Path, names: Sequence[str], labels: Tensor) -> None:
        self.labels = labels
        self._root = os.fspath(root)
        # One string instead of a million objects: worker processes share it, for no reference count is written to.
        encoded = [os.fsencode(name) for name in names]
        self._names, self._ends = b"".join(encoded), np.cumsum([0, *map(len, encoded)])
        self._status = np.array([_size_and_time(f"{self._root}/{name}") for name in names], np.int64).reshape(-1, 2)
        sha256 = hashlib.sha256()
        for name, status, label in zip(encoded, self._status.tolist(), labels.tolist(), strict=True):
            sha256.update(b"%b\0%d\0%d\0%d\n" % (name, *status, label))
        self.digest = f"sha256:{sha256.hexdigest()}"

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return Path(self._root, self._name(index))

    def listed(self, index: int) -> tuple[str, int, int]:
        return self._name(index), *self._status[index].tolist()

    def image(self, index: int) -> Tensor:
        return read_image(self.path(index))

    def _name(self, index: int) -> str:
        return os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])


def read_image(path: Path) -> Tensor:
    """Colour (3, H, W), upright: uint8, or float32 in [0, 1] where the file holds more than 8 bits a channel.

    Transparency is dropped. 16 bits run from 0 to 65535, floating-point numbers from 0 to 1.

    Raises:
        UnreadableImage: The file is missing, broken, no image, or beyond these ranges.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken metadata, which many photographs have
            return _read(path)
    except _BROKEN as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).replace(f" {str(path)!r}", "").split())
        raise UnreadableImage(f"{path} cannot be read as an image ({reason}); repair or remove it") from error


def class_folders(folder: Path, ignored: str = "") -> tuple[str, ...]:
    """Names of the sub-folders, sorted, but for the one ignored.

    Raises:
        UserError: Fewer than two.
    """
    folders = (path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = tuple(sorted(name for name in folders if name != ignored))
    if len(names) < 2:
        found = f"the folder {names[0]} alone" if names else "no folder"
        raise UserError(f"{folder} holds {found}; expected a folder of images per class, of two classes at least")
    return names


def labelled_files(
    root: Path, folder: str, class_names: Sequence[str], ignored: str = ""
) -> tuple[list[str], list[int]]:
    """Names below `root` and labels of the images in the class folders of `root/folder`, at any depth.

    Raises:
        UserError: Other class folders than these, or one without images.
    """
    given = class_folders(root / folder, ignored)
    if given != tuple(class_names):
        differing = sorted(set(given) ^ set(class_names))
        raise UserError(f"{root / folder} has other classes than the training images: {', '.join(differing[:5])}")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(_image_names(root, root / folder / name))
        if not found:
            raise UserError(f"{root / folder / name} holds no image; expected files that end in {', '.join(SUFFIXES)}")
        names += found
        labels += [label] * len(found)
    return names, labels


def _image_names(root: Path, folder: Path) -> list[str]:
    names: list[str] = []
    for directory, _, files in os.walk(folder):
        place = Path(directory).relative_to(root).as_posix()
        names += [f"{place}/{file}" for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
    return names


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    except OSError as error:
        raise UserError(
            f"{path} is listed in the data and not there ({error.strerror}); unpack the data anew"
        ) from error


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):  # Pillow would clip these at 255
            return _deep(np.array(upright), path)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


def _deep(pixels: np.ndarray, path: Path) -> Tensor:
    most = 1.0 if pixels.dtype.kind == "f" else 65535
    if not (pixels.min() >= 0 and pixels.max() <= most):
        raise UnreadableImage(
            f"{path} holds values from {pixels.min():g} to {pixels.max():g}, expected 0 to {most:g}; rescale it"
        )
    grey = torch.from_numpy(pixels.astype(np.float32) / most)
    return grey.expand(3, -1, -1)
