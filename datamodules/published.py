"""The published data sets, read as their authors packed them."""

from __future__ import annotations

import logging
import pickle
import tarfile
import zipfile
from typing import Any

from datamodules.base import ImageDataModule
from datamodules.checks import require_flag, require_folder, require_option
from datamodules.files import ImagesInFiles, check_readable
from datamodules.formats import FORMATS, Format, Found
from datamodules.splits import complete
from zoo.errors import UserError

log = logging.getLogger(__name__)

# What torchvision and the readers say of files that are missing, broken or of another kind.
_REFUSALS = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, AssertionError, EOFError),
    *(pickle.PickleError, tarfile.TarError, zipfile.BadZipFile),
)


class PublishedImages(ImageDataModule):
    """A published data set; its own splits where it has them.

    A split that it lacks is cut out of its training images by seed, stratified: validation, and for Caltech-101 test
    as well. The test images of ImageNet and Tiny-ImageNet are their published validation images, for those of the
    published test have no labels.

    Args:
        format: A key of `formats.FORMATS`.
        root: The folder that holds the data's own folder.
        name: For reports; None takes the format.
        download: Lets torchvision download what is missing, where it can.
        validation_share: Share of the training images that become validation images, where the data has none.
        test_share: The same for test images.
        seed: Of the splits, too.
        options: See `ImageDataModule`.

    Raises:
        UserError: Files that are missing or not whole, with what to put where.
    """

    def __init__(
        self,
        format: str,
        *,
        root: str = "data",
        name: str | None = None,
        download: bool = False,
        validation_share: float = 0.1,
        test_share: float = 0.2,
        seed: int = 0,
        **options: Any,
    ) -> None:
        require_option("format", format, FORMATS)
        require_flag("download", download)
        found = _read(FORMATS[format], root, download)
        found_size, size = (len(found.class_names), len(found.images)), FORMATS[format].size
        if found_size != size:
            log.warning(
                "dataset.root=%s holds %d classes and %d images of %s, not the %d and %d that were published: unpack "
                "it anew unless that is meant",
                *(root, *found_size, FORMATS[format].title, *size),
            )
        shares = {"validation_share": validation_share, "test_share": test_share}
        splits, rule = complete(found.given, found.images.labels, found.class_names, shares, seed)
        if isinstance(found.images, ImagesInFiles):
            check_readable(found.images, splits)
        super().__init__(
            name=name or format,
            source=found.images,
            splits=splits,
            class_names=found.class_names,
            seed=seed,
            split_rule=rule,
            **options,
        )


def _read(format: Format, root: str, download: bool) -> Found:
    from filelock import FileLock
    from scipy.io.matlab import MatReadError

    refusals = (*_REFUSALS, MatReadError)
    wanted = f"{format.expects} of {format.title} ({format.address})"
    folder = format.base(require_folder(root, wanted, create=download and format.downloads))
    try:
        return format.read(folder, False)
    except refusals as error:
        if not download:
            raise _refusal(format, root, error, download) from error
    try:
        with FileLock(folder / f".{format.title}.lock"):  # the processes of one job wait for each other
            return format.read(folder, True)
    except refusals as error:
        raise _refusal(format, root, error, download) from error


def _refusal(format: Format, root: str, error: Exception, download: bool) -> UserError:
    reason = " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
    told = "" if "Dataset not found" in reason else f" ({reason})"  # torchvision's words, without a file's name
    remark = f" ({format.remark})" if format.remark else ""
    way = ""
    if format.downloads and not download:
        way = "; or type dataset.download=true"
    if download and not format.downloads:
        way = "; dataset.download=true cannot fetch it"
    return UserError(
        f"dataset.root={root} does not hold {format.title}, whole and as published{told}: put into it "
        f"{format.expects}, from {format.address}{remark}{way}"
    )
