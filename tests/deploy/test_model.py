"""Images of any kind become the same input, and predictions carry names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.files import read_image
from datamodules.images import normalise, resize_and_crop
from deploy import Model
from deploy.images import preprocess
from tests.deploy.deploy_stand_ins import DIGITS
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.interface import Interface

WIDE = Interface(InputSpec(3, 24, 32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic", 0.875), ("cat", "dog"))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    "view",
    [
        str,
        Image.open,
        lambda path: np.array(Image.open(path)),
        lambda path: read_image(path),
        lambda path: read_image(path)[None],
        lambda path: [path],
    ],
    ids=["path", "PIL", "array", "tensor", "batch", "list"],
)
def test_every_view_of_an_image_is_what_training_saw(photograph: Path, view: Callable) -> None:
    expected = normalise(resize_and_crop(read_image(photograph)[None], WIDE.input), WIDE.input)
    assert torch.equal(preprocess(view(photograph), WIDE), expected)


def test_floats_from_black_to_white_are_taken_and_transparency_gets_the_background(photograph: Path) -> None:
    floats = read_image(photograph).float() / 255
    nearly = preprocess(read_image(photograph), WIDE)
    assert (preprocess(floats, WIDE) - nearly).abs().mean() < 0.02  # bytes are resized as bytes
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    black = preprocess(clear, replace(WIDE, background="black"))
    assert torch.allclose(black, preprocess(torch.zeros(3, 40, 40), WIDE))
    assert torch.allclose(preprocess(clear, WIDE), preprocess(torch.ones(3, 40, 40), WIDE))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.zeros(3, 8, 8) - 0.1, "numbers from -0.1 to -0.1: expected 0"),
        (torch.full((3, 8, 8), float("nan")), "numbers from nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "a tensor of torch.int64: expected uint8"),
        (torch.zeros(8, 8, 3), r"a tensor of shape \[8, 8, 3\]: expected \(1 or 3, height, width\)"),
        (torch.zeros(0, 3, 8, 8), "a tensor of shape"),
        (np.zeros((3, 8, 8), np.uint8), "an array of shape"),
        ([], "no images"),
        (7, "an image of type int"),
        ("nowhere.png", "nowhere.png cannot be opened"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(given: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        preprocess(given, WIDE)


def test_predictions_of_one_image_a_folder_a_batch_and_a_list_agree(assembled: Model, images: Path) -> None:
    paths = [images / name for name in ("3/a.png", "3/b.png", "7/a.png", "7/b.png")]
    of_folder = assembled.predict(images, batch_size=3)
    assert of_folder.images == tuple(map(str, paths))
    assert of_folder.classes == DIGITS
    torch.testing.assert_close(of_folder.probabilities.sum(1), torch.ones(4))
    with torch.no_grad():
        expected = assembled(assembled.preprocess(paths)).softmax(1)
    torch.testing.assert_close(of_folder.probabilities, expected)
    batch = torch.cat([read_image(path)[None] for path in paths])
    for other in (assembled.predict(paths), assembled.predict(batch)):
        torch.testing.assert_close(other.probabilities, expected)
    one = assembled.predict(paths[2])
    assert len(one) == 1
    torch.testing.assert_close(one.probabilities[0], expected[2])
    assert one.labels == (DIGITS[int(expected[2].argmax())],) == (next(iter(one[0])),)
    assert one.top(2)[0] == list(one[0].items())[:2]
    assert sum(one[0].values()) == pytest.approx(1)


def test_a_folder_without_images_is_refused(assembled: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image that Pillow reads"):
        assembled.predict(tmp_path)
