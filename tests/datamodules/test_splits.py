from __future__ import annotations

import pytest
import torch

from datamodules import ClutteredMNIST, Digits, MNIST5k
from datamodules.mnist5k import pretraining_pool, quarter_turns, read_mnist5k
from datamodules.splits import cut, select_classes, stratified_order
from zoo.entries import InputSpec
from zoo.errors import UserError

GREY = InputSpec(1, 28, 28, (0.0,), (1.0,))
POOL_START = [1044, 2591, 4111, 725, 1703, 2111, 138, 3411]


def test_stratified_order_is_a_permutation_whose_slices_hold_the_classes_in_their_shares():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    order = stratified_order(labels, seed=3)
    assert torch.equal(order.sort().values, torch.arange(100))
    for start, size in [(0, 50), (10, 30), (37, 40), (0, 10)]:
        counts = labels[order[start : start + size]].bincount(minlength=3)
        for count, share in zip(counts, (0.7, 0.2, 0.1), strict=True):
            assert abs(count - share * size) <= 1


def test_stratified_order_depends_on_the_seed_and_is_shuffled():
    labels = torch.arange(10).repeat(20)
    assert torch.equal(stratified_order(labels, 0), stratified_order(labels, 0))
    assert not torch.equal(stratified_order(labels, 0), stratified_order(labels, 1))
    assert not torch.equal(labels[stratified_order(labels, 0)][:10], torch.arange(10))


def test_stratified_order_of_little_data():
    assert stratified_order(torch.tensor([4]), 0).tolist() == [0]
    assert stratified_order(torch.zeros(0, dtype=torch.int64), 0).tolist() == []


def test_cut_gives_disjoint_slices_and_the_rest():
    parts = cut(torch.arange(10), {"num_train": 3, "num_validation": None, "num_test": 2})
    assert [part.tolist() for part in parts.values()] == [[0, 1, 2], [3, 4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"num_train": 0}, "dataset.num_train=0"),
        ({"num_train": -5}, "dataset.num_train=-5"),
        ({"num_train": 8, "num_test": 5}, r"dataset.num_train=8 dataset.num_test=5: .* 10 images .* by 3"),
        ({"num_train": 10, "num_test": None}, r"dataset.num_train=10 leave none of 10 images for dataset.num_test"),
    ],
)
def test_cut_refuses_what_the_data_cannot_give(sizes: dict[str, int | None], told: str):
    with pytest.raises(UserError, match=told):
        cut(torch.arange(10), sizes)


def test_select_classes_counts_in_the_order_wanted():
    labels = torch.tensor([0, 2, 4, 2, 0])
    assert select_classes(labels, {0: "a", 2: "b", 4: "c"}, ["c", "a"]).tolist() == [1, -1, 0, -1, 1]


@pytest.mark.parametrize("make", [Digits, MNIST5k, ClutteredMNIST])
def test_splits_are_disjoint_stratified_and_fixed_by_seed(make: type):
    data = make(seed=1)
    splits = [data._indices(split) for split in ("train", "val", "test")]
    assert len(torch.cat(splits).unique()) == sum(map(len, splits))
    for split in ("train", "val", "test"):
        labels = data.images(split, GREY)[1]
        counts = labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 0.05 * len(labels)
    assert data.digest == make(seed=1).digest != make(seed=2).digest
    assert data.digest != make(seed=1, num_validation=100).digest


def test_default_sizes():
    sizes = {
        make: tuple(make().num_images(split) for split in ("train", "val", "test"))
        for make in (Digits, MNIST5k, ClutteredMNIST)
    }
    assert sizes == {Digits: (300, 300, 1197), MNIST5k: (3000, 200, 1800), ClutteredMNIST: (600, 300, 1100)}


def test_the_pool_of_the_embedded_zoo_never_changes():
    pool, others = pretraining_pool()
    assert (len(pool), len(others), len(torch.cat([pool, others]).unique())) == (3000, 2000, 5000)
    assert read_mnist5k()[1][pool].bincount().tolist() == [300] * 10
    assert pool[:8].tolist() == POOL_START


def test_only_train_images_of_mnist5k_come_from_the_pool():
    pool = set(pretraining_pool()[0].tolist())
    for seed in (0, 1):
        data = MNIST5k(variant="low", num_train=50, seed=seed)
        assert set(data._indices("train").tolist()) <= pool
        assert not (set(data._indices("val").tolist()) | set(data._indices("test").tolist())) & pool


def test_cluttered_digits_were_never_seen_in_pretraining():
    digits, labels = read_mnist5k()
    others = pretraining_pool()[1]
    data = ClutteredMNIST(num_train=600, num_validation=300)
    counts = sum(data.images(split, GREY)[1].bincount(minlength=10) for split in ("train", "val", "test"))
    assert torch.equal(counts, labels[others].bincount())
    assert digits.shape == (5000, 1, 28, 28)


@pytest.mark.parametrize(
    ("variant", "num_classes", "num_train"),
    [("digits", 10, 3000), ("low", 6, 1800), ("even", 5, 1500), ("odd", 5, 1500), ("inverted", 10, 3000)],
)
def test_variants_of_mnist5k(variant: str, num_classes: int, num_train: int):
    data = MNIST5k(variant=variant)
    images, labels = data.images("train", GREY)
    assert (data.num_classes, len(images)) == (num_classes, num_train)
    assert labels.bincount().tolist() == [300] * num_classes
    assert (images.mean() > 0.5) == (variant == "inverted")


def test_labels_of_a_variant_follow_its_class_names():
    all_digits = MNIST5k(num_train=None)
    images, labels = all_digits.images("train", GREY)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    data = MNIST5k(variant="odd", classes=["7", "1"], num_train=100)
    for image, label in zip(*data.images("train", GREY), strict=True):
        assert known[image.numpy().tobytes()] == int(data.class_names[label])


def test_rotation_gives_every_image_in_its_four_turns():
    data = MNIST5k(variant="rotation", num_train=20)
    images, labels = data.images("train", GREY)
    assert labels.tolist() == [0, 1, 2, 3] * 20
    for turn in range(4):
        assert torch.equal(images[turn::4], torch.rot90(images[0::4], turn, (2, 3)))
    turned, turns = quarter_turns(images[:2])
    assert torch.equal(turned[turns == 0], images[:2])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variant": "evn"}, r"dataset.variant=evn is unknown: did you mean 'even'"),
        ({"variant": "even", "classes": ["1", "2"]}, r"dataset.classes: unknown class '1': known: 0, 2, 4, 6, 8"),
        ({"classes": ["3"]}, "at least two classes"),
        ({"classes": ["3", "3"]}, "at least two classes"),
        ({"variant": "even", "num_train": 1501}, r"dataset.num_train=1501: the data has 1500 images"),
    ],
)
def test_mnist5k_refuses_what_it_does_not_have(options: dict, told: str):
    with pytest.raises(UserError, match=told):
        MNIST5k(**options)
