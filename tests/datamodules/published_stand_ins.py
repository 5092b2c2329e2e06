"""Small files in the formats of the published data sets: the same names, folders, encodings and checksums' places.

Every image is of one colour, which says its label and its split: red is 20 * label, green is 100 in train, 150 in
validation and 200 in test. Classes are made up; 4 training images each, 2 for each other split.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

GREEN = {"train": 100, "val": 150, "test": 200}
NUM_IMAGES = {"train": 4, "val": 2, "test": 2}


def save(path: Path, label: int, split: str, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (20 * label, GREEN[split], 0)).save(path, quality=100, subsampling=0)


def each(num_classes: int, *splits: str):
    """(split, label, number) of every image, the classes taking turns as in real lists."""
    for split in splits:
        for number in range(NUM_IMAGES[split]):
            for label in range(num_classes):
                yield split, label, number


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, dataset: type) -> tuple[str, ...]:
    """Pickled batches of rows of 3072 bytes, channel after channel; their checksums take the place of the real ones."""
    fine = dataset is datasets.CIFAR100
    names = ("apple", "bear", "clock") if fine else ("airplane", "automobile", "bird")
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)

    def batch(split: str, part: int | None = None) -> dict:
        chosen = [(label, number) for _, label, number in each(3, split) if part is None or number == part % 4]
        rows = np.zeros((len(chosen), 3, 32, 32), dtype=np.uint8)
        for row, (label, _) in zip(rows, chosen, strict=True):
            row[0], row[1] = 20 * label, GREEN[split]
        labels = [label for label, _ in chosen]
        content = {"data": rows.reshape(len(rows), -1), "fine_labels" if fine else "labels": labels}
        return content | ({"coarse_labels": [0] * len(labels)} if fine else {})

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return md5(folder / name)

    train = [[name, write(name, batch("train", None if fine else i))] for i, (name, _) in enumerate(dataset.train_list)]
    test = [[name, write(name, batch("test"))] for name, _ in dataset.test_list]
    meta = {**dataset.meta, "md5": write(dataset.meta["filename"], {dataset.meta["key"]: list(names)})}
    for attribute, value in {"train_list": train, "test_list": test, "meta": meta}.items():
        monkeypatch.setattr(dataset, attribute, value)
    return names


def mnist(root: Path) -> tuple[str, ...]:
    """The idx format: big-endian magic number and sizes, then bytes."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        labels = [label for _, label, _ in each(10, split)]
        pixels = np.repeat(np.array(labels, dtype=np.uint8) * 20, 28 * 28)
        images = struct.pack(">4I", 2051, len(labels), 28, 28) + pixels.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, len(labels)) + bytes(labels))
    return tuple("0123456789")


def flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Images by number, labels and splits in MATLAB files, labels from 1."""
    folder = root / "flowers-102"
    labels, numbers = [], {"train": [], "val": [], "test": []}
    for count, (split, label, _) in enumerate(each(102, "train", "val", "test"), start=1):
        save(folder / "jpg" / f"image_{count:05d}.jpg", label % 12, split)
        labels.append(label + 1)
        numbers[split].append(count)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    ids = {"trnid": numbers["train"], "valid": numbers["val"], "tstid": numbers["test"]}
    savemat(folder / "setid.mat", {key: np.array([value], dtype=np.uint16) for key, value in ids.items()})
    files = datasets.Flowers102._file_dict
    sums = {key: (files[key][0], md5(folder / files[key][0])) for key in ("label", "setid")}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {**files, **sums})
    return tuple(datasets.Flowers102.classes)


def stanford_cars(root: Path) -> tuple[str, ...]:
    """Annotations as MATLAB arrays of structures, with bounding boxes."""
    folder = root / "stanford_cars"
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Volvo C30 Hatchback 2012")
    kinds = [*((box, "u1") for box in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")), ("class", "u1"), ("fname", "O")]
    rows: dict[str, list] = {"train": [], "test": []}
    for split, label, _ in each(3, "train", "test"):
        file = f"{len(rows[split]) + 1:05d}.jpg"
        save(folder / f"cars_{split}" / file, label, split)
        rows[split].append((1, 1, 9, 9, label + 1, file))
    (folder / "devkit").mkdir()
    annotations = {split: {"annotations": np.array([rows[split]], dtype=kinds)} for split in rows}
    savemat(folder / "devkit" / "cars_train_annos.mat", annotations["train"])
    savemat(folder / "cars_test_annos_withlabels.mat", annotations["test"])
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    return names


def fgvc_aircraft(root: Path) -> tuple[str, ...]:
    data = root / "fgvc-aircraft-2013b" / "data"
    names = ("707-320", "A318", "Boeing 717")
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("\n".join(names) + "\n")
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for count, (split, label, _) in enumerate(each(3, *lines)):
        save(data / "images" / f"{1000000 + count}.jpg", label, split)
        lines[split].append(f"{1000000 + count} {names[label]}\n")
    for split, rows in lines.items():
        (data / f"images_variant_{split}.txt").write_text("".join(rows))
    return names


def oxford_iiit_pets(root: Path) -> tuple[str, ...]:
    folder = root / "oxford-iiit-pet"
    raw = ("Abyssinian", "american_bulldog", "Bengal")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for split, label, number in each(3, *lines):
        identity = f"{raw[label]}_{number + 10 * (split == 'test')}"
        save(folder / "images" / f"{identity}.jpg", label, split)
        lines[split].append(f"{identity} {label + 1} {1 + (label == 1)} 1\n")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "trainval.txt").write_text("".join(lines["train"]))
    (folder / "annotations" / "test.txt").write_text("".join(lines["test"]))
    return ("Abyssinian", "American Bulldog", "Bengal")


def dtd(root: Path) -> tuple[str, ...]:
    folder, names = root / "dtd" / "dtd", ("banded", "dotted", "zigzagged")
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split, label, number in each(3, *lines):
        name = f"{names[label]}/{names[label]}_{split}{number:04d}.jpg"
        save(folder / "images" / name, label, split)
        lines[split].append(f"{name}\n")
    (folder / "labels").mkdir()
    for split, rows in lines.items():
        (folder / "labels" / f"{split}1.txt").write_text("".join(rows))
    return names


def caltech101(root: Path) -> tuple[str, ...]:
    """All images in one place; BACKGROUND_Google is no class."""
    folder, names = root / "caltech101" / "101_ObjectCategories", ("Faces", "accordion", "airplanes")
    for label, name in enumerate(names):
        for number in range(10):
            save(folder / name / f"image_{number + 1:04d}.jpg", label, "train")
    save(folder / "BACKGROUND_Google" / "image_0001.jpg", 9, "train")
    return names


def cub200(root: Path) -> tuple[str, ...]:
    folder, raw = root / "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    files: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for count, (split, label, number) in enumerate(each(3, "train", "test"), start=1):
        name = f"{raw[label]}/{raw[label][4:]}_{split}_{number:04d}.jpg"
        save(folder / "images" / name, label, split)
        files["images"].append(f"{count} {name}\n")
        files["image_class_labels"].append(f"{count} {label + 1}\n")
        files["train_test_split"].append(f"{count} {int(split == 'train')}\n")
    files["classes"] = [f"{label} {name}\n" for label, name in enumerate(raw, start=1)]
    for name, rows in files.items():
        (folder / f"{name}.txt").write_text("".join(rows))
    return ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")


def tiny_imagenet(root: Path) -> tuple[str, ...]:
    folder, synsets = root / "tiny-imagenet-200", ("n01443537", "n02012849", "n03126707")
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    rows = []
    for split, label, number in each(3, "train", "test"):
        if split == "train":
            save(folder / "train" / synsets[label] / "images" / f"{synsets[label]}_{number}.JPEG", label, split)
        else:
            rows.append(f"val_{len(rows)}.JPEG\t{synsets[label]}\t0\t32\t44\t62\n")
            save(folder / "val" / "images" / f"val_{len(rows) - 1}.JPEG", label, split)
    for synset in synsets:
        (folder / "train" / synset / f"{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t10\t63\t58\n")
    save(folder / "test" / "images" / "test_0.JPEG", 9, "val")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    (folder / "wnids.txt").write_text("\n".join(reversed(synsets)) + "\n")
    words = {"n00001740": "entity", synsets[0]: "goldfish, Carassius auratus", synsets[1]: "crane", synsets[2]: "crane"}
    (folder / "words.txt").write_text("".join(f"{synset}\t{word}\n" for synset, word in words.items()))
    return ("goldfish", "crane (n02012849)", "crane (n03126707)")


IMAGENET_CLASSES = {"n01443537": "goldfish", "n02012849": "crane (n02012849)", "n03126707": "crane (n03126707)"}


def imagenet(root: Path) -> tuple[str, ...]:
    for split, label, number in each(3, "train", "test"):
        folder = root / {"train": "train", "test": "val"}[split] / list(IMAGENET_CLASSES)[label]
        save(folder / f"ILSVRC2012_{split}_{number:08d}.JPEG", label, split)
    return tuple(IMAGENET_CLASSES.values())


def imagenet_archives(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The archives as they are downloaded: an archive of archives, a flat archive, and the development kit."""
    synsets, plain = list(IMAGENET_CLASSES), root.parent / "plain"
    imagenet(plain)
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in synsets:
            inner = plain / f"{synset}.tar"
            with tarfile.open(inner, "w") as archive:
                for path in sorted((plain / "train" / synset).iterdir()):
                    archive.add(path, f"{synset}_{path.name}")
            outer.add(inner, inner.name)
    truth = []
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for label, synset in enumerate(synsets):
            for path in sorted((plain / "val" / synset).iterdir()):
                truth.append(label + 1)
                archive.add(path, f"ILSVRC2012_val_{len(truth):08d}.JPEG")
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(label + 1, synset, "words, more", "gloss", 0) for label, synset in enumerate(synsets)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array([(4, "n00001740", "entity", "gloss", 3), *rows], dtype=kinds)[:, None]})
    members = {
        "meta.mat": meta.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{label}\n" for label in truth).encode(),
    }
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sums = {key: (name, md5(root / name)) for key, (name, _) in datasets.imagenet.ARCHIVE_META.items()}
    monkeypatch.setattr(datasets.imagenet, "ARCHIVE_META", sums)
    return tuple(IMAGENET_CLASSES.values())


MAKERS = {
    "cifar10": lambda root, monkeypatch: cifar(root, monkeypatch, datasets.CIFAR10),
    "cifar100": lambda root, monkeypatch: cifar(root, monkeypatch, datasets.CIFAR100),
    "mnist": lambda root, monkeypatch: mnist(root),
    "tiny_imagenet": lambda root, monkeypatch: tiny_imagenet(root),
    "imagenet": lambda root, monkeypatch: imagenet(root),
    "caltech101": lambda root, monkeypatch: caltech101(root),
    "flowers102": flowers102,
    "stanford_cars": lambda root, monkeypatch: stanford_cars(root),
    "fgvc_aircraft": lambda root, monkeypatch: fgvc_aircraft(root),
    "oxford_iiit_pets": lambda root, monkeypatch: oxford_iiit_pets(root),
    "cub200": lambda root, monkeypatch: cub200(root),
    "dtd": lambda root, monkeypatch: dtd(root),
}
