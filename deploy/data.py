"""Data to measure a model on: the data set of its run or of the command line, or a folder with a folder per class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cloning.blueprint import CloningBlueprint
from datamodules import ImageDataModule
from datamodules.decoding import Decoding
from datamodules.files import ImagesInFiles
from datamodules.listing import Listing, class_folders, examples, labelled_files
from datamodules.manifest import printable
from datamodules.renumbered import Renumbered
from deploy.model import Model
from zoo.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def batches(data: ImageDataModule, split: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of a split in its order, in the batches in which training measures them."""
    if split != "train":
        yield from data.val_dataloader() if split == "val" else data.test_dataloader()
        return
    start, labels = 0, data.labels("train")
    assert data.input is not None
    for images in data.image_batches("train", data.input, batch_size=data.batch_size):
        yield images, labels[start : start + len(images)]
        start += len(images)


def prepared(model: Model, data: ImageDataModule) -> ImageDataModule:
    """Data labelled by the model's outputs, matched by the names of the classes, and preprocessed as it wants them.

    Raises:
        UserError: Classes that the network does not know.
    """
    data = data if data.class_names == model.classes else _renumbered(model, data)
    data.use_input(model.input)
    return data


def _renumbered(model: Model, data: ImageDataModule) -> ImageDataModule:
    unknown = [name for name in data.class_names if name not in model.classes]
    is_cloned = isinstance(model.origin.blueprint, CloningBlueprint)
    if len(unknown) == len(data.class_names) or (unknown and not is_cloned):
        raise UserError(
            f"{data.name} has the classes {examples(unknown, 5)}, which the network does not know; it knows "
            f"{examples(model.classes, 12)}: give data of these"
        )
    known = [name for name in model.classes if name in data.class_names]
    if unknown:
        log.info("images of %s are left out: the network has no output for them", ", ".join(unknown))
    if len(known) < len(model.classes):
        log.info("%s has images of %d of the %d classes", data.name, len(known), len(model.classes))
    return Renumbered(data, model.classes)


def folder_data(model: Model, folder: Path) -> ImageDataModule:
    """All images of a folder with a folder per class, as the split ``test``.

    Raises:
        UserError: No such folder, no folders of classes, files that are no images or empty.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: expected one with a folder of images per class")
    names = class_folders(folder)
    if not set(map(printable, names)) & set(model.classes) and {"train", "test", "val"} & set(map(str.lower, names)):
        raise UserError(
            f"{folder} holds splits: give one of them, or dataset=image_folder dataset.root={folder} split=test"
        )
    listing = Listing()
    labelled_files(folder, "", names, listing)
    listing.tell(folder)
    decoding = Decoding(model.interface.background, model.interface.white_level)
    source = ImagesInFiles(folder, listing.names, torch.tensor(listing.labels), decoding)
    none = torch.empty(0, dtype=torch.int64)
    splits = {"train": none, "val": none, "test": torch.arange(len(source))}
    return ImageDataModule(name=folder.name or str(folder), source=source, splits=splits, class_names=names)
