from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from published_stand_ins import GREEN, MAKERS, imagenet_archives, save
from torchvision import datasets

from datamodules import PublishedImages
from datamodules.formats import FORMATS
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(3, 8, 8, (0.0,) * 3, (1.0,) * 3)
OWN_VALIDATION = {"flowers102", "fgvc_aircraft", "dtd"}
SPLITS = ("train", "val", "test")


def made(format: str, root: Path, monkeypatch: pytest.MonkeyPatch, **options) -> PublishedImages:
    MAKERS[format](root, monkeypatch)
    return PublishedImages(format, root=str(root), **options)


def refusal(format: str, root: Path | str, **options) -> str:
    with pytest.raises(UserError) as error:
        PublishedImages(format, root=str(root), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("format", MAKERS)
def test_reads_the_format_as_it_was_published(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = MAKERS[format](tmp_path, monkeypatch)
    data = PublishedImages(format, root=str(tmp_path))
    assert data.class_names == names
    assert data.name == format
    for split in SPLITS:
        images, labels = data.images(split, SPEC)
        assert len(images) == data.num_images(split) > 0
        red, green = (images[:, channel, 4, 4] * 255 for channel in (0, 1))
        known = labels % 12 if format == "flowers102" else labels
        assert torch.allclose(red, 20.0 * known, atol=3)
        if format not in ("mnist", "caltech101"):  # grey; without published splits
            origin = "train" if split == "val" and format not in OWN_VALIDATION else split
            assert torch.allclose(green, torch.tensor(float(GREEN[origin])), atol=3)
    indices = torch.cat([data._splits[split] for split in SPLITS])
    assert len(indices.unique()) == len(indices) == len(data._source)
    assert set(data.images("train", SPEC)[1].tolist()) == set(range(len(names)))


def test_makers_cover_every_format() -> None:
    assert set(MAKERS) == set(FORMATS)


@pytest.mark.parametrize("format", ["cifar10", "caltech101", "dtd"])
def test_splits_are_fixed_by_seed_and_recorded(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(format, tmp_path, monkeypatch, validation_share=0.25)
    again, other = (PublishedImages(format, root=str(tmp_path), validation_share=0.25, seed=seed) for seed in (0, 1))
    assert data.digest == again.digest != other.digest
    assert torch.equal(data.images("test", SPEC)[0], again.images("test", SPEC)[0])
    record = data.record
    assert {split: record["splits"][split] for split in SPLITS} == {split: data.num_images(split) for split in SPLITS}
    told = {
        "cifar10": "train, test as given; val cut out of train by seed 0, stratified",
        "caltech101": "train as given; val, test cut out of train by seed 0, stratified",
        "dtd": "train, val, test as given",
    }
    assert record["splits"]["how"] == told[format]
    assert record["digest_covers"].startswith("pixels" if format == "cifar10" else "file names, file sizes")
    assert record["num_classes"] == 3


def test_the_folder_of_the_data_itself_may_be_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {made("cub200", tmp_path, monkeypatch).digest}
    assert {PublishedImages("cub200", root=str(tmp_path / "CUB_200_2011")).digest} == digests


def test_imagenet_may_lie_one_folder_deeper_and_needs_no_development_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made("imagenet", tmp_path / "imagenet", monkeypatch, validation_share=0.25)
    deeper = PublishedImages("imagenet", root=str(tmp_path), validation_share=0.25)
    assert data.digest == deeper.digest
    assert [deeper.num_images(split) for split in SPLITS] == [9, 3, 6]


def test_imagenet_archives_are_unpacked_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = imagenet_archives(tmp_path / "data", monkeypatch)
    assert "dataset.download=true unpacks" in refusal("imagenet", tmp_path / "data")
    data = PublishedImages("imagenet", root=str(tmp_path / "data"), download=True)
    assert data.class_names == names
    images, labels = data.images("test", SPEC)
    assert torch.allclose(images[:, 0, 4, 4] * 255, 20.0 * labels, atol=3)
    assert len(labels) == 6


def test_tiny_imagenet_may_be_sorted_into_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = made("tiny_imagenet", tmp_path, monkeypatch).images("test", SPEC)[1]
    val = tmp_path / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        file, synset = line.split("\t")[:2]
        (val / synset).mkdir(exist_ok=True)
        shutil.move(val / "images" / file, val / synset / file)
    (val / "images").rmdir()
    (val / "val_annotations.txt").unlink()
    sorted_labels = PublishedImages("tiny_imagenet", root=str(tmp_path)).images("test", SPEC)[1]
    assert sorted(sorted_labels.tolist()) == sorted(labels.tolist())


@pytest.mark.parametrize("format", FORMATS)
def test_missing_files_are_told_in_one_line_with_what_to_put_where(format: str, tmp_path: Path) -> None:
    told = refusal(format, tmp_path)
    assert str(tmp_path) in told
    assert FORMATS[format].title in told
    assert FORMATS[format].expects in told
    assert FORMATS[format].address in told
    assert ("type dataset.download=true" in told) == FORMATS[format].downloads
    assert list(tmp_path.iterdir()) == []  # looking for files leaves none
    missing = refusal(format, tmp_path / "nowhere")
    assert "there is no such folder" in missing
    assert FORMATS[format].address in missing


@pytest.mark.parametrize(("format", "dead"), [("stanford_cars", "ai.stanford.edu"), ("caltech101", "Google Drive")])
def test_dead_links_are_called_so(format: str, dead: str, tmp_path: Path) -> None:
    told = refusal(format, tmp_path)
    assert dead in told
    assert "dead" in told


def test_what_cannot_be_downloaded_says_so_and_is_read_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "dataset.download=true cannot fetch it" in refusal("stanford_cars", tmp_path, download=True)
    assert made("stanford_cars", tmp_path / "there", monkeypatch, download=True).num_classes == 3


def test_a_failed_download_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", offline)
    assert "no route to host" in refusal("cifar10", tmp_path / "new", download=True)


def test_a_download_is_what_torchvision_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def archive(url: str, root: Path, **_: object) -> None:
        fetched.append(url)
        shutil.copytree(tmp_path / "server" / "cifar-10-batches-py", Path(root) / "cifar-10-batches-py")

    MAKERS["cifar10"](tmp_path / "server", monkeypatch)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", archive)
    data = PublishedImages("cifar10", root=str(tmp_path / "here"), download=True)
    assert fetched == [FORMATS["cifar10"].address]
    assert data.num_images("test") == 6


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("format", "file", "told"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3", "whole and as published"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", "whole and as published"),
        ("flowers102", "flowers-102/setid.mat", "whole and as published"),
        ("stanford_cars", "stanford_cars/devkit/cars_meta.mat", "whole and as published"),
        ("cub200", "CUB_200_2011/train_test_split.txt", "whole and as published"),
        ("dtd", "dtd/dtd/labels/test1.txt", "whole and as published"),
    ],
)
def test_files_that_are_not_whole_are_refused(
    format: str, file: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[format](tmp_path, monkeypatch)
    _cut_short(tmp_path / file)
    assert told in refusal(format, tmp_path)


def test_labels_that_do_not_fit_the_images_or_the_classes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["mnist"](tmp_path, monkeypatch)
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels = file.read_bytes()[8:]
    file.write_bytes(struct.pack(">2I", 2049, len(labels) - 1) + labels[1:])
    assert f"train: {len(labels)} images and {len(labels) - 1} labels" in refusal("mnist", tmp_path)
    file.write_bytes(struct.pack(">2I", 2049, len(labels)) + labels[:-2] + bytes([10, 77]))
    told = refusal("mnist", tmp_path)
    assert "train has label 10 (2 images with such); expected 0 to 9" in told


def test_a_listed_image_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["cub200"](tmp_path, monkeypatch)
    image = next((tmp_path / "CUB_200_2011" / "images").rglob("*.jpg"))
    image.unlink()
    assert image.name in refusal("cub200", tmp_path)


def test_refuses_settings_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["dtd"](tmp_path, monkeypatch)
    MAKERS["caltech101"](tmp_path, monkeypatch)
    assert "did you mean 'cifar10'" in refusal("cifar1", tmp_path)
    assert "dataset.download=yes: expected true or false" in refusal("dtd", tmp_path, download="yes")
    assert "dataset.test_share=1.5" in refusal("caltech101", tmp_path, test_share=1.5)
    assert "dataset.validation_share=many" in refusal("dtd", tmp_path, validation_share="many")
    assert "too few" in refusal("caltech101", tmp_path, validation_share=0.5, test_share=0.5)
    assert "dataset.root=3" in refusal("dtd", 3)
    save(tmp_path / "caltech101" / "101_ObjectCategories" / "yin_yang" / "image_0001.jpg", 3, "train")
    told = refusal("caltech101", tmp_path, validation_share=0.3, test_share=0.6)
    assert "no training image is left of class yin_yang" in told


def test_a_data_set_that_is_not_whole_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made("caltech101", tmp_path, monkeypatch)
    assert "holds 3 classes and" in caplog.text
    assert "of Caltech-101, not the 101 and 8677 that were published" in caplog.text
