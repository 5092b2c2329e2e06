"""Images of one's own: folders whose sub-folders are the classes."""

from __future__ import annotations

from typing import Any, Literal

import torch

from datamodules.base import ImageDataModule
from datamodules.checks import require_folder, require_option
from datamodules.decoding import Decoding
from datamodules.files import ImagesInFiles, check_readable, tell_copies, tell_range
from datamodules.layout import LAYOUTS, read_layout
from datamodules.listing import Listing, class_folders, entries, labelled_files
from datamodules.splits import complete


class ImageFolder(ImageDataModule):
    """Images in `root/train/CLASS/...` with `root/val` and `root/test` beside, or in `root/CLASS/...`.

    What has no folder of its own is cut out of the training images by seed, stratified. Images are read when asked
    for, brought to the size that the network takes, and cut to its shape around the centre. The folders of the splits
    may be called `Training`, `valid`, `test_images` and the like; what may be meant in two ways is refused, and what is
    left out is counted in the log.

    Args:
        root: The folder.
        layout: `auto`, or `classes`: the folders of `root` are the classes whatever they are called, see
            `layout.read_layout`.
        name: For reports; None takes the folder's name.
        validation_share: Share of the training images that become validation images where `root/val` is missing.
        test_share: The same for `root/test`.
        background: Behind what is transparent: a colour's name, `#rrggbb`, a grey value or red, green and blue from 0
            to 255.
        white_level: The value that is white in images of 16 bits or floating-point numbers; None takes 65535 and 1.
        seed: Of the splits, too.
        options: See `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        layout: Literal["auto", "classes"] = "auto",
        name: str | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.15,
        background: str | int | tuple[int, int, int] = "white",
        white_level: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        require_option("layout", layout, LAYOUTS)
        folder = require_folder(root, "a folder of images per class (CLASS/...)")
        folders = read_layout(folder, layout)
        class_names = class_folders(folder / folders["train"])
        listing = Listing()
        sizes = {split: labelled_files(folder, place, class_names, listing) for split, place in folders.items()}
        if folders["train"]:
            beside = [entry.name for entry in entries(folder) if entry.name not in folders.values()]
            listing.folders += [name for name in beside if (folder / name).is_dir()]
            listing.files += [name for name in beside if not (folder / name).is_dir()]
        listing.tell(folder)
        source = ImagesInFiles(folder, listing.names, torch.tensor(listing.labels), Decoding(background, white_level))
        given = dict(zip(sizes, torch.arange(len(source)).split(list(sizes.values())), strict=True))
        shares = {"validation_share": validation_share, "test_share": test_share}
        splits, rule = complete(given, source.labels, class_names, shares, seed)
        check_readable(source, splits)
        tell_range(source, splits["train"])
        tell_copies(source, splits)
        super().__init__(
            name=name or folder.name,
            source=source,
            splits=splits,
            class_names=class_names,
            seed=seed,
            split_rule=rule,
            **options,
        )
