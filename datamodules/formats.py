"""The formats in which the published data sets lie on a disk, and what has to be put where to have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.files import ImagesInFiles
from datamodules.images import ImagesInMemory, LabelledImages
from datamodules.listing import Listing, class_difference, class_folders, labelled_files
from zoo.class_lists import readable
from zoo.errors import UserError

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Found:
    """What a format holds.

    Attributes:
        images: All of them.
        given: Indices, int64 (n,), of the published splits: `train`, and `val` and `test` where there are any.
        class_names: By label, all different.
    """

    images: LabelledImages
    given: Mapping[str, Tensor]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """A published data set on a disk.

    Attributes:
        title: Its name in messages.
        read: Reads it below a folder; the flag lets torchvision download it.
        expects: What has to lie in the folder, as unpacked from the published archives.
        address: Where to get it.
        size: Numbers of classes and images that were published.
        downloads: Whether torchvision can.
        remark: On addresses that are dead, and what else is to be known.
    """

    title: str
    read: Callable[[Path, bool], Found]
    expects: str
    address: str
    size: tuple[int, int]
    downloads: bool = True
    remark: str = ""

    def base(self, root: Path) -> Path:
        """The folder to read from: `root`, or the one above where `root` is the data's own folder."""
        return root.parent if root.name == self.expects.split("/")[0] else root


def _in_memory(root: Path, download: bool, *, dataset: str, class_names: Sequence[str] | None = None) -> Found:
    """CIFAR and MNIST: arrays of all images, in train and test."""
    make = _of_torchvision(dataset)
    parts = {split: make(root, train=split == "train", download=download) for split in ("train", "test")}
    pixels = torch.cat([torch.as_tensor(part.data) for part in parts.values()])
    pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
    labels = torch.cat([torch.as_tensor(part.targets) for part in parts.values()])
    for split, part in parts.items():
        if len(part.data) != len(part.targets):
            raise UserError(f"{split}: {len(part.data)} images and {len(part.targets)} labels")
    given = _consecutive({split: len(part.targets) for split, part in parts.items()})
    names = class_names or parts["train"].classes
    return Found(ImagesInMemory(pixels.contiguous(), labels), given, tuple(names))


def _listed(
    root: Path,
    download: bool,
    *,
    dataset: str,
    splits: Mapping[str, str],
    files: Callable[[Any], tuple[Sequence[Any], Sequence[int]]],
) -> Found:
    """Data sets of which torchvision reads the lists of files."""
    names: list[str] = []
    labels: list[int] = []
    make = _of_torchvision(dataset)
    parts = {split: make(root, split=published, download=download) for split, published in splits.items()}
    class_names = {split: tuple(part.classes) for split, part in parts.items()}
    for split, theirs in class_names.items():
        if theirs != class_names["train"]:
            raise UserError(f"dataset.root={root}: {split} {class_difference(theirs, class_names['train'])}")
    sizes = {}
    for split, part in parts.items():
        paths, their_labels = files(part)
        names += [Path(path).relative_to(root).as_posix() for path in paths]
        labels += [int(label) for label in their_labels]
        sizes[split] = len(paths)
    images = ImagesInFiles(root, names, torch.tensor(labels))
    return Found(images, _consecutive(sizes), class_names["train"])


def _of_torchvision(name: str) -> Callable[..., Any]:
    from torchvision import datasets  # heavy, and most data sets are none of these

    return getattr(datasets, name)


def _paths_and_labels(dataset: Any) -> tuple[Sequence[Any], Sequence[int]]:
    """Asks a data set that opens files by a function of the user's for the paths instead."""
    dataset.loader = str
    return tuple(zip(*(dataset[index] for index in range(len(dataset))), strict=True))


def _caltech101(root: Path, download: bool) -> Found:
    if download:
        _of_torchvision("Caltech101")(root, download=True)
    place, no_class = "caltech101/101_ObjectCategories", "BACKGROUND_Google"
    class_names = class_folders(root / place, ignored=no_class)
    listing = Listing()
    sizes = {"train": labelled_files(root, place, class_names, listing, ignored=no_class)}
    listing.tell(root)
    return Found(ImagesInFiles(root, listing.names, torch.tensor(listing.labels)), _consecutive(sizes), class_names)


def _imagenet(root: Path, download: bool) -> Found:
    root = root / "imagenet" if (root / "imagenet").is_dir() else root
    if download and not ((root / "train").is_dir() and (root / "val").is_dir()):
        for split in ("train", "val"):
            _of_torchvision("ImageNet")(root, split=split)  # unpacks the archives
    from timm.data import ImageNetInfo  # heavy

    synsets = class_folders(root / "train")
    class_names = readable(synsets, ImageNetInfo().label_descriptions(as_dict=True))
    return _folders(root, {"train": "train", "test": "val"}, synsets, class_names)


def _tiny_imagenet(root: Path, download: bool) -> Found:
    base = root / "tiny-imagenet-200"
    synsets = class_folders(base / "train")
    rows = [line.split("\t", 1) for line in (base / "words.txt").read_text(encoding="utf-8").splitlines()]
    class_names = readable(synsets, dict(row for row in rows if len(row) == 2))
    annotations = base / "val" / "val_annotations.txt"
    if not annotations.exists():  # sorted into folders like train, as many people do
        return _folders(base, {"train": "train", "test": "val"}, synsets, class_names)
    listing = Listing()
    sizes = {"train": labelled_files(base, "train", synsets, listing), "test": 0}
    listing.tell(base)
    names, labels = listing.names, listing.labels
    for line in annotations.read_text().splitlines():
        file, synset = line.split("\t")[:2]
        names.append(f"val/images/{file}")
        labels.append(synsets.index(synset))
        sizes["test"] += 1
    return Found(ImagesInFiles(base, names, torch.tensor(labels)), _consecutive(sizes), class_names)


def _cub200(root: Path, download: bool) -> Found:
    base = root / "CUB_200_2011"

    def table(name: str) -> dict[str, str]:
        return dict(line.split(" ", 1) for line in (base / name).read_text().splitlines() if line.strip())

    classes, files = table("classes.txt"), table("images.txt")
    label_of = {number: label for label, number in enumerate(classes)}
    class_names = tuple(name.partition(".")[2].replace("_", " ") for name in classes.values())
    of_image, is_train = table("image_class_labels.txt"), table("train_test_split.txt")
    labels = torch.tensor([label_of[of_image[number].strip()] for number in files])
    train = torch.tensor([is_train[number].strip() == "1" for number in files])
    images = ImagesInFiles(base, [f"images/{name.strip()}" for name in files.values()], labels)
    given = {"train": train.nonzero().flatten(), "test": (~train).nonzero().flatten()}
    return Found(images, given, class_names)


def _folders(root: Path, folders: Mapping[str, str], labels: Sequence[str], class_names: Sequence[str]) -> Found:
    listing = Listing()
    sizes = {split: labelled_files(root, folder, labels, listing) for split, folder in folders.items()}
    listing.tell(root)
    images = ImagesInFiles(root, listing.names, torch.tensor(listing.labels))
    return Found(images, _consecutive(sizes), tuple(class_names))


def _consecutive(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    return dict(zip(sizes, torch.arange(sum(sizes.values())).split(list(sizes.values())), strict=True))


def _robots(path: str) -> str:
    return f"https://www.robots.ox.ac.uk/~vgg/data/{path}"


_TRAIN_TEST = {"train": "train", "test": "test"}
_TRAIN_VAL_TEST = {"train": "train", "val": "val", "test": "test"}

FORMATS = {
    "cifar10": Format(
        "CIFAR-10",
        partial(_in_memory, dataset="CIFAR10"),
        "cifar-10-batches-py/",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        (10, 60_000),
    ),
    "cifar100": Format(
        "CIFAR-100",
        partial(_in_memory, dataset="CIFAR100"),
        "cifar-100-python/",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        (100, 60_000),
    ),
    "mnist": Format(
        "MNIST",
        partial(_in_memory, dataset="MNIST", class_names=DIGITS),
        "MNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        "t10k-labels-idx1-ubyte",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (10, 70_000),
        remark="gunzip what ends in .gz",
    ),
    "tiny_imagenet": Format(
        "Tiny-ImageNet",
        _tiny_imagenet,
        "tiny-imagenet-200/ with train/, val/ and words.txt",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        (200, 110_000),
        downloads=False,
    ),
    "imagenet": Format(
        "ImageNet",
        _imagenet,
        "train/ and val/ with a folder per synset (n01440764/...), or below imagenet/, or ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, which dataset.download=true unpacks",
        "https://image-net.org/download.php",
        (1000, 1_331_167),
        downloads=False,
        remark="needs an account there",
    ),
    "caltech101": Format(
        "Caltech-101",
        _caltech101,
        "caltech101/101_ObjectCategories/",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        (101, 8_677),
        remark="the addresses on vision.caltech.edu and Google Drive, which torchvision used before 0.24, are dead",
    ),
    "flowers102": Format(
        "Flowers-102",
        partial(_listed, dataset="Flowers102", splits=_TRAIN_VAL_TEST, files=_paths_and_labels),
        "flowers-102/ with jpg/, imagelabels.mat, setid.mat",
        _robots("flowers/102/"),
        (102, 8_189),
    ),
    "stanford_cars": Format(
        "Stanford Cars",
        partial(_listed, dataset="StanfordCars", splits=_TRAIN_TEST, files=_paths_and_labels),
        "stanford_cars/ with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat",
        "https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset (images) and "
        "https://github.com/pytorch/vision/issues/7545 (annotations)",
        (196, 16_185),
        downloads=False,
        remark="the original address at ai.stanford.edu is dead; of cars_train/cars_train/ take the inner folder",
    ),
    "fgvc_aircraft": Format(
        "FGVC Aircraft",
        partial(_listed, dataset="FGVCAircraft", splits=_TRAIN_VAL_TEST, files=_paths_and_labels),
        "fgvc-aircraft-2013b/",
        _robots("fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"),
        (100, 10_000),
    ),
    "oxford_iiit_pets": Format(
        "Oxford-IIIT Pets",
        partial(
            _listed,
            dataset="OxfordIIITPet",
            splits={"train": "trainval", "test": "test"},
            files=lambda part: (part._images, part._labels),  # opens its files by itself
        ),
        "oxford-iiit-pet/ with images/ and annotations/",
        _robots("pets/"),
        (37, 7_349),
    ),
    "cub200": Format(
        "CUB-200-2011",
        _cub200,
        "CUB_200_2011/ with images/, images.txt, classes.txt, image_class_labels.txt, train_test_split.txt",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        (200, 11_788),
        downloads=False,
    ),
    "dtd": Format(
        "DTD",
        partial(_listed, dataset="DTD", splits=_TRAIN_VAL_TEST, files=_paths_and_labels),
        "dtd/dtd/ with images/ and labels/",
        _robots("dtd/download/dtd-r1.0.1.tar.gz"),
        (47, 5_640),
    ),
}
