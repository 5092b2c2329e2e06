"""Images of one's own: folders whose sub-folders are the classes."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.base import ImageDataModule
from datamodules.checks import require_folder
from datamodules.files import ImagesInFiles, class_folders, labelled_files
from datamodules.splits import complete


class ImageFolder(ImageDataModule):
    """Images in `root/train/CLASS/...` with `root/val` and `root/test` beside, or in `root/CLASS/...`.

    What has no folder of its own is cut out of the training images by seed, stratified. Images are read when asked
    for, brought to the size that the network takes, and cut to its shape around the centre.

    Args:
        root: The folder.
        name: For reports; None takes the folder's name.
        validation_share: Share of the training images that become validation images where `root/val` is missing.
        test_share: The same for `root/test`.
        seed: Of the splits, too.
        options: See `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        name: str | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.15,
        seed: int = 0,
        **options: Any,
    ) -> None:
        folder = require_folder(root, "a folder of images per class (CLASS/...)")
        folders = {"train": ""}
        if (folder / "train").is_dir():
            folders = {split: split for split in ("train", "val", "test") if (folder / split).is_dir()}
        class_names = class_folders(folder / folders["train"])
        names: list[str] = []
        labels: list[int] = []
        given = {}
        for split, place in folders.items():
            found, their_labels = labelled_files(folder, place, class_names)
            given[split] = torch.arange(len(names), len(names) + len(found))
            names += found
            labels += their_labels
        source = ImagesInFiles(folder, names, torch.tensor(labels))
        shares = {"validation_share": validation_share, "test_share": test_share}
        splits, rule = complete(given, source.labels, class_names, shares, seed)
        super().__init__(
            name=name or folder.name,
            source=source,
            splits=splits,
            class_names=class_names,
            seed=seed,
            split_rule=rule,
            **options,
        )
