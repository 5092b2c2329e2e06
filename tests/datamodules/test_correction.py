from __future__ import annotations

import pytest
import torch

from datamodules.base import ImageDataModule
from datamodules.correction import CorrectionData
from datamodules.images import ImagesInMemory
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(1, 4, 4, (0.0,), (1.0,))


def parent(counts: tuple[int, ...] = (20, 10, 10, 5), batch_size: int = 6) -> ImageDataModule:
    """Images whose every pixel says their number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = (torch.arange(len(labels)) / len(labels)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    order = torch.arange(len(labels))
    splits = {"train": order[order % 5 < 3], "val": order[order % 5 == 3], "test": order[order % 5 == 4]}
    data = ImageDataModule(
        name="numbers", source=ImagesInMemory(images, labels), splits=splits, class_names="abcd", batch_size=batch_size
    )
    data.use_input(SPEC)
    return data


def test_shares_and_exemplars_of_relabelled_classes() -> None:
    whole = parent()
    data = CorrectionData(whole, classes=["d", "a", "b"], cloned=["a"], fraction=0.5, exemplars=2)
    images, labels = data.images("train", SPEC)
    assert torch.bincount(labels).tolist() == [2, 6, 2]
    x, y = whole.images("train", SPEC)
    for label, old in enumerate((3, 0, 1)):
        theirs = {v.item() for v in x[y == old][:, 0, 0, 0]}
        mine = [v.item() for v in images[labels == label][:, 0, 0, 0]]
        assert set(mine) <= theirs
        assert len(set(mine)) == len(mine)
    for split in ("val", "test"):
        assert len(data.images(split, SPEC)[1]) == sum(
            int((whole.images(split, SPEC)[1] == c).sum()) for c in (0, 1, 3)
        )
    assert data.digest != CorrectionData(whole, classes=["d", "a", "b"], cloned=["a"], fraction=1.0, exemplars=2).digest


def test_what_there_is_too_little_of_is_told() -> None:
    given = {"classes": ["d", "a", "b"], "cloned": ["a"]}
    assert CorrectionData(parent(), **given, fraction=0.5, exemplars=3).lacking == ()
    assert CorrectionData(parent(), **given, fraction=0.01, exemplars=4).lacking == (
        "0.01 of the 12 training images of a is less than one",
        "d has 3 training images, 4 exemplars were asked for",
    )


def test_a_class_has_the_same_images_in_whatever_company() -> None:
    whole = parent()

    def of_b(classes: str) -> set[float]:
        data = CorrectionData(whole, classes=classes, cloned="c", fraction=0.5, exemplars=2)
        images, labels = data.images("train", SPEC)
        return {value.item() for value in images[labels == classes.index("b")][:, 0, 0, 0]}

    assert of_b("b") == of_b("dcba") == of_b("bc") == of_b("ab")


def test_an_epoch_holds_all_classes_equally_often_and_every_image() -> None:
    data = CorrectionData(parent(), classes=["a", "b", "d"], cloned=["a"], fraction=1.0, exemplars=2)
    loader = data.train_dataloader()
    batches = list(loader)
    labels = torch.cat([labels for _, labels in batches])
    assert torch.bincount(labels).tolist() == [12, 12, 12]
    assert max(len(labels) for _, labels in batches) <= 6
    pixels = {v.item() for images, _ in batches for v in images[:, 0, 0, 0]}
    assert pixels == {v.item() for v in data.images("train", SPEC)[0][:, 0, 0, 0]}
    loader.batch_sampler.set_epoch(1)
    assert not torch.equal(torch.cat([labels for _, labels in loader]), labels)


def test_no_exemplars_leave_the_cloned_classes() -> None:
    data = CorrectionData(parent(), classes=["a", "b"], cloned=["b"], fraction=0.01, exemplars=0)
    assert data.images("train", SPEC)[1].tolist() == [1]
    assert torch.cat([labels for _, labels in data.train_dataloader()]).tolist() == [1]


def test_classes_without_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"numbers has no images of class 'x'.*known: a, b, c, d"):
        CorrectionData(parent(), classes=["a", "x"], cloned=["x"], fraction=0.5, exemplars=1)
    with pytest.raises(UserError, match="no training image of class 'd'"):
        CorrectionData(parent((20, 10, 10, 0)), classes=["a", "d"], cloned=["d"], fraction=0.5, exemplars=1)


def test_images_are_varied_and_loaded_as_those_of_the_parent() -> None:
    whole = parent()
    options = {**whole.options, "crop": "random_padded", "flip": True, "crop_fraction": 0.5}
    varied = ImageDataModule(
        name="n", source=whole._source, splits=whole._splits, class_names="abcd", seed=3, **options
    )
    varied.use_input(SPEC)
    data = CorrectionData(varied, classes=["d", "a"], cloned=["a"], fraction=1.0, exemplars=2)
    assert (data.options, data.augmentation, data.seed) == (varied.options, varied.augmentation, 3)
    assert sum(len(labels) for _, labels in data.train_dataloader()) > 0
    assert data.record["splits"]["train"] == data.num_images("train")
