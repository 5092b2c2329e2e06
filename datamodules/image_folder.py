"""Images of one's own: folders whose sub-folders are the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from datamodules.base import ImageDataModule
from datamodules.images import ImagesInFiles
from datamodules.splits import cut, stratified_order
from zoo.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


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
        folder = Path(root).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(f"dataset.root={root}: there is no such folder; put images into {folder}/CLASS/ or set it")
        for key, share in {"validation_share": validation_share, "test_share": test_share}.items():
            if not 0 < share < 1:
                raise UserError(f"dataset.{key}={share}: expected a share above 0 and below 1")
        train_folder = folder / "train" if (folder / "train").is_dir() else folder
        given = {"train": train_folder}
        if train_folder != folder:
            given |= {split: folder / split for split in ("val", "test") if (folder / split).is_dir()}
        class_names = _class_names(train_folder)
        paths, labels, splits = [], [], {}
        for split, split_folder in given.items():
            found = _labelled_files(split_folder, class_names)
            order = stratified_order(torch.tensor([label for _, label in found]), seed)
            splits[split] = order + len(paths)
            paths += [path for path, _ in found]
            labels += [label for _, label in found]
        shares = {"val": validation_share, "test": test_share}
        sizes = {
            split: max(1, round(share * len(splits["train"]))) for split, share in shares.items() if split not in given
        }
        if len(splits["train"]) <= sum(sizes.values()):
            raise UserError(
                f"dataset.root={root}: {len(splits['train'])} training images are too few to cut {' and '.join(sizes)} "
                f"out of them; add images, or lower dataset.validation_share and dataset.test_share"
            )
        splits |= cut(splits["train"], {"train": None, **sizes})
        source = ImagesInFiles(folder, paths, torch.tensor(labels))
        super().__init__(
            name=name or folder.name, source=source, splits=splits, class_names=class_names, seed=seed, **options
        )


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:
        found = f"the folder {names[0]} alone" if names else "no folder"
        raise UserError(f"{folder} holds {found}; expected a folder of images per class, of two classes at least")
    return names


def _labelled_files(folder: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    if _class_names(folder) != class_names:
        differing = sorted(set(_class_names(folder)) ^ set(class_names))
        raise UserError(f"{folder} has other classes than the training images: {', '.join(differing[:5])}")
    found = []
    for label, name in enumerate(class_names):
        paths = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise UserError(f"{folder / name} holds no image; expected files that end in {', '.join(SUFFIXES)}")
        found += [(path, label) for path in paths]
    return found
