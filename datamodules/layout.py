"""Which folders of a root are splits and which are classes: taken as what they are, or refused by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from datamodules.listing import class_folders, examples, has_images, plain, subfolders
from datamodules.manifest import printable
from zoo.errors import UserError

log = logging.getLogger(__name__)

LAYOUTS = ("auto", "classes")

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval", "训练"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "devel", "development"), "val"),
    "验证": "val",
    **dict.fromkeys(("test", "testing", "tst", "测试"), "test"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "holdout", "heldout"), ""),  # validation or test
}
# What people put before or behind the name of a split: `train_set`, `TestImages`, `val2017`.
_FILLING = (
    "images",
    "image",
    "imgs",
    "img",
    "dataset",
    "data",
    "set",
    "split",
    "folder",
    "samples",
    "photos",
    "s",
    "集",
)
_IMAGES = {"image", "images", "img", "imgs", "jpegimages", "pictures", "photos"}
_ANNOTATIONS = {
    *("label", "labels", "annotation", "annotations", "annots", "xml", "xmls", "mask", "masks", "gt", "groundtruth"),
    *(
        "bbox",
        "bboxes",
        "boxes",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "imagesets",
    ),
}
_FOLD = re.compile(r"(fold|split|part|partition|cv|shard|chunk|batch|subset|run)[ _.-]?\d+")


def read_layout(root: Path, layout: str = "auto") -> dict[str, str]:
    """The folder below `root` of each split: `{"train": ""}` where the folders of `root` are the classes.

    Args:
        layout: `auto` looks for folders of splits, in any of their usual spellings; `classes` takes the folders of
            `root` as the classes, whatever they are called and hold.

    Raises:
        UserError: What may be meant in two ways, with the names and what to do.
    """
    if layout == "classes":
        return {"train": ""}
    names = subfolders(root)
    meant = {name: split for name in names if (split := split_of(name)) is not None}
    deep = [name for name in meant if subfolders(root / name)]
    if deep:
        return _splits(root, names, meant)
    others = [name for name in names if name not in meant and has_images(root / name)]
    if len(meant) > 1 or (meant and len(others) < 2):
        raise _refusal(root, f"{_quoted(list(meant))} named like splits, without a folder per class in them")
    for name in meant:
        log.warning("%s: the folder %r is taken as a class, like %s", printable(str(root)), name, examples(others))
    _check_classes(root)
    after = {name: splits for name in names if name not in meant and (splits := _mentioned(name))}
    if len(set().union(*after.values())) > 1 or any(subfolders(root / name) for name in after):
        raise _refusal(root, f"{_quoted(list(after))}, named after splits")
    return {"train": ""}


def _mentioned(name: str) -> set[str]:
    """The splits of which a name has the word: `seg_train`, `trainA`."""
    words = re.findall(r"[^\W\d_A-Z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+", name)
    return {split for word in words if (split := _SPLITS.get(plain(word)))}


def split_of(name: str) -> str | None:
    """The split that a folder's name means: `train`, `val`, `test`, empty for one of the last two, or None."""
    word = re.sub(r"[\W\d_]", "", plain(name))
    while word not in _SPLITS:
        shorter = word
        for filling in _FILLING:
            shorter = shorter.removesuffix(filling) or shorter
            shorter = (shorter.removeprefix(filling) if len(filling) > 1 else shorter) or shorter
        if shorter == word:
            return None
        word = shorter
    return _SPLITS[word]


def _splits(root: Path, names: Sequence[str], meant: Mapping[str, str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for name, split in meant.items():
        if not split:
            raise _refusal(root, f"{name!r}, which may mean validation or test", "rename it to val or to test")
        if split in folders:
            raise _refusal(root, f"both {folders[split]!r} and {name!r} for {split}", "keep one")
        folders[split] = name
    if "train" not in folders:
        raise _refusal(root, f"{_quoted(list(meant))} and no folder train", "add one")
    for split, name in folders.items():
        if not subfolders(root / name):
            raise _refusal(root, f"{name!r} without a folder per class in it", f"sort the images of {split} by class")
        _check_classes(root / name)
    classes = {plain(name) for name in subfolders(root / folders["train"])}
    for name in names:
        inside = [child for child in subfolders(root / name) if plain(child) in classes]
        if name not in meant and (inside or plain(name) in classes):
            what = f"{name!r} with the folder {inside[0]!r}" if inside else f"the class {name!r}"
            raise _refusal(
                root,
                f"{what} beside {_quoted(list(folders.values()))}",
                "rename it to train, val or test, merge it, or move it away",
            )
    return {split: folders[split] for split in ("train", "val", "test") if split in folders}


def _check_classes(folder: Path) -> None:
    """Refuses what cannot be folders of classes.

    Raises:
        UserError: Splits, folds or the classes themselves one level deeper, images beside their annotations.
    """
    names = class_folders(folder)
    known = {plain(name): name for name in names}
    images, annotations = ([known[word] for word in known if _word(word) in words] for words in (_IMAGES, _ANNOTATIONS))
    if images and annotations:
        raise _refusal(
            folder,
            f"{images[0]!r} beside {annotations[0]!r}, as data of detection and segmentation does",
            "sort the images into a folder per class",
        )
    if all(_FOLD.fullmatch(word) for word in known):
        raise _refusal(folder, f"{_quoted(names)}, which look like folds", "sort them into train, val and test")
    inside = {name: {plain(child): child for child in subfolders(folder / name)} for name in names}
    for name, children in inside.items():
        shared = [child for word, child in children.items() if word in known and known[word] != name]
        if shared:
            raise _refusal(
                folder, f"{name!r} with {shared[0]!r} in it, and {shared[0]!r} beside it", "keep one of them"
            )
    split = _shared(inside, lambda child: split_of(child) is not None, at_least=1)
    if split:
        raise _refusal(
            folder,
            f"the splits inside the classes ({split[0]}/{split[2]}, {split[1]}/{split[2]})",
            f"turn them round ({split[2]}/{split[0]}/...)",
        )
    for name, children in inside.items():
        if len({split_of(child) for child in children.values()} - {None}) > 1:
            raise _refusal(
                folder,
                f"{name!r} with splits in it ({examples(list(children.values()))})",
                f"give that folder (dataset.root={printable(str(folder / name))}), or turn them round",
            )
    bare = {name: children for name, children in inside.items() if children and not has_images(folder / name)}
    repeated = _shared(bare, lambda child: True, at_least=2)
    if repeated:
        raise _refusal(
            folder,
            f"{repeated[0]!r} and {repeated[1]!r} with the same folders in them ({repeated[2]}, ...): splits, "
            "folds, or classes by some group",
            "sort the images into train, val and test",
        )
    for name, children in bare.items():
        if len(children) > 1:
            told = examples(list(children.values()))
            log.warning("class %s: the images in its folders (%s) count to it", printable(name), told)


def _shared(
    inside: Mapping[str, Mapping[str, str]], counts: Callable[[str], bool], at_least: int
) -> tuple[str, str, str] | None:
    """Two folders with so many sub-folders of one name, and the first such name."""
    counted = {name: {w: c for w, c in children.items() if counts(c)} for name, children in inside.items()}
    names = [name for name, children in counted.items() if children]
    for first, second in pairwise(names):
        shared = [child for word, child in counted[first].items() if word in counted[second]]
        if len(shared) >= at_least:
            return first, second, shared[0]
    return None


def _refusal(
    folder: Path, found: str, way: str = "sort the images into train/CLASS, val/CLASS and test/CLASS"
) -> UserError:
    return UserError(
        f"{printable(str(folder))} holds {printable(found)}; {way}, or type dataset.layout=classes to take the "
        "folders of dataset.root as the classes"
    )


def _quoted(names: Sequence[str]) -> str:
    return " and ".join([repr(name) for name in names[:3]] + (["more"] if len(names) > 3 else []))


def _word(name: str) -> str:
    return re.sub(r"[\W\d_]", "", name)
