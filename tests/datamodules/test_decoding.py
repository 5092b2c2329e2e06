from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decoding import Decoding, decode
from datamodules.files import UnreadableImage, read_image

BLACK_SQUARE = np.zeros((8, 8, 4), np.uint8)
BLACK_SQUARE[2:6, 2:6, 3] = 255  # black, and transparent around it


def transparent(mode: str, path: Path) -> Path:
    """A black square before nothing, in any of the ways that files have for it."""
    image = Image.fromarray(BLACK_SQUARE)
    options = {}
    if mode == "LA":
        image = Image.fromarray(BLACK_SQUARE[..., [0, 3]])
    elif mode == "P":
        image = Image.fromarray(BLACK_SQUARE[..., 3] // 255).convert("P")
        image.putpalette([0, 0, 0] * 256)
        options = {"transparency": 0}
    elif mode in ("RGB", "L"):
        image = Image.fromarray(255 - BLACK_SQUARE[..., 3]).convert(mode)
        options = {"transparency": (255, 255, 255) if mode == "RGB" else 255}
    elif mode == "I;16":
        image = Image.fromarray(np.where(BLACK_SQUARE[..., 3] > 0, 0, 9000).astype(np.uint16))
        options = {"transparency": 9000}
    image.save(path, **options)
    return path


@pytest.mark.parametrize("background", ["red", 100, [1, 2, 3]])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_what_is_transparent_gets_the_background(tmp_path: Path, mode: str, background: str | int | list[int]) -> None:
    found = decode(transparent(mode, tmp_path / "image.png"), Decoding(background))
    colour = {"red": [255, 0, 0], "100": [100] * 3}.get(str(background), background)
    scale = 255 if found.pixels.is_floating_point() else 1
    assert (found.pixels[:, 0, 0] * scale).round().tolist() == colour
    assert found.pixels[:, 4, 4].tolist() == [0, 0, 0]
    assert set(found.remarks) == {"transparency"}


def test_a_drawing_in_the_background_s_colour_is_told(tmp_path: Path) -> None:
    path = transparent("RGBA", tmp_path / "image.png")
    assert "set another dataset.background" in decode(path, Decoding("black")).remarks["flat"]
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(path)
    assert "transparent everywhere" in decode(path, Decoding()).remarks["flat"]


def test_an_alpha_channel_without_transparency_changes_nothing(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 100, 50, 255)).save(tmp_path / "image.png")
    found = decode(tmp_path / "image.png", Decoding("black"))
    assert found.pixels[:, 0, 0].tolist() == [200, 100, 50]
    assert found.remarks == {}


def test_palettes_keep_their_colours_and_half_transparent_is_mixed(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    image.save(tmp_path / "rgba.png")
    image.convert("RGB").quantize(2).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png")[:, 0, 0].tolist() == [200, 100, 50]
    mixed = read_image(tmp_path / "rgba.png", Decoding("black"))[:, 0, 0]
    assert torch.allclose(mixed.float(), torch.tensor([100.0, 50.0, 25.0]), atol=1)


def test_the_first_of_several_frames_is_taken_and_told(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("gif", "tif", "png", "webp"):
        frames[0].save(tmp_path / f"frames.{suffix}", save_all=True, append_images=frames[1:])
        found = decode(tmp_path / f"frames.{suffix}", Decoding())
        assert found.remarks["frames"] == "several frames, of which the first is taken"
        assert torch.allclose(found.pixels[:, 0, 0].float(), torch.tensor([255.0, 0.0, 0.0]), atol=3)


def test_lab_becomes_red_green_and_blue(tmp_path: Path) -> None:

    lab = Image.frombytes("LAB", (4, 4), bytes([255, 0, 0]) * 16)
    lab.save(tmp_path / "lab.tif")
    assert torch.allclose(read_image(tmp_path / "lab.tif").float(), torch.tensor(255.0), atol=3)


def test_an_image_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match=r"huge\.png cannot be read .* make it smaller or remove it"):
        read_image(tmp_path / "huge.png")


def test_no_interpreter_is_started_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(UnreadableImage, match="cannot identify image file"):
        read_image(tmp_path / "program.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_grey_keeps_its_shades(tmp_path: Path, suffix: str) -> None:
    shades = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(shades).save(tmp_path / f"deep.{suffix}")
    pixels = read_image(tmp_path / f"deep.{suffix}")
    assert pixels.shape == (3, 4, 6)
    assert torch.allclose(pixels[0], torch.from_numpy(shades.astype(np.float32) / 65535))
    assert torch.equal(pixels[0], pixels[2])


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "dark.png")
    read_image(tmp_path / "dark.png")
    assert "dark.png holds values from 0 to 4095 where white is 65535" in caplog.text
    assert read_image(tmp_path / "dark.png", Decoding(white_level=4095)).max() == 1


def test_floating_point_images_are_taken_between_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], dtype=np.float32)).save(tmp_path / "good.tif")
    assert read_image(tmp_path / "good.tif")[0].tolist() == [[0.0, 0.25, 1.0]]
    Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32)).save(tmp_path / "bad.tif")
    with pytest.raises(UnreadableImage, match=r"bad\.tif holds values from 0 to 300, expected 0 to 1; rescale it"):
        read_image(tmp_path / "bad.tif")


@pytest.mark.parametrize("keep", [0, 20, 200])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_a_file_cut_short_is_named_in_one_line(tmp_path: Path, suffix: str, keep: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path} cannot be read as an image")
    assert "\n" not in str(error.value)
