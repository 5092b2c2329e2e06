"""One image file as numbers: any mode that Pillow reads becomes red, green and blue."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageColor, ImageOps
from torch import Tensor

from datamodules.images import ChooseBox
from datamodules.listing import image_formats
from datamodules.manifest import printable
from zoo.errors import UserError

_SIDEWAYS = (5, 6, 7, 8)  # orientations in EXIF that exchange height and width
# What Pillow's readers say of files that are broken.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, Image.DecompressionBombError),
)


class UnreadableImage(UserError):
    """A file that is no image, or none that is understood, by name."""


class BeyondWhite(UnreadableImage):
    """A file whose values are not between black and white.

    Attributes:
        told: What was found, without what to do.
        depth: Of ``Decoded``.
        level: The white level that would do for it alone; None where none does.
    """

    def __init__(self, told: str, depth: str = "", level: float | None = None) -> None:
        remedy = f"; rescale it{f', or set dataset.white_level={level:g}' if level else ''}" if depth else ""
        super().__init__(told + remedy)
        self.told, self.depth, self.level = told, depth, level


@dataclass(frozen=True)
class Decoding:
    """What the files themselves leave open.

    Attributes:
        background: Behind what is transparent: a colour's name, `#rrggbb`, a grey value or red, green and blue from 0
            to 255.
        white_level: The value that is white in images of 16 bits or floating-point numbers; None takes 65535 and 1.
    """

    background: str | int | Sequence[int] = "white"
    white_level: float | None = None

    def __post_init__(self) -> None:
        level = self.white_level
        is_number = isinstance(level, (int, float)) and not isinstance(level, bool)
        if level is not None and not (is_number and 0 < level < math.inf):
            raise UserError(f"dataset.white_level={level}: expected a number above 0, or null")
        _ = self.colour

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background, 0 to 255."""
        given: Any = self.background
        try:
            if isinstance(given, str):
                return ImageColor.getrgb(given)[:3]
            values = tuple(given) if isinstance(given, Sequence) else (given,) * 3
        except ValueError:
            values = ()
        if len(values) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in values):
            raise UserError(
                f"dataset.background={given}: expected a colour (white, black, '#808080'), a grey value from 0 to 255, "
                "or [red,green,blue]"
            )
        return values


class Decoded(NamedTuple):
    """An image, and what was done to it that its owner should know.

    Attributes:
        pixels: (3, H, W), upright: uint8, or float32 in [0, 1] where the file holds more than 8 bits a channel.
        white: The value in the file that became 1, or 255.
        remarks: By kind, in words.
        depth: Of a channel in the file: ``8 bits``, ``16 bits`` or ``floating-point numbers``.
    """

    pixels: Tensor
    white: float
    remarks: Mapping[str, str]
    depth: str = "8 bits"


def decode(path: Path, decoding: Decoding, choose: ChooseBox | None = None) -> Decoded:
    """Reads an image file; of several frames the first.

    Args:
        path: Of the file.
        decoding: What it leaves open.
        choose: The part that is wanted, given the upright height and width; None takes the whole. A JPEG of which
            much fewer pixels are wanted is decoded at 1/2, 1/4 or 1/8 of its size, several times as fast.

    Raises:
        UnreadableImage: The file is missing, broken, no image, larger than Pillow takes for honest, or holds values
            beyond its white.
    """
    with warnings.catch_warnings(), _refusals(printable(str(path)), re.escape(f" {str(path)!r}")):
        warnings.simplefilter("ignore")  # of broken metadata, which many photographs have
        return _decode(path, decoding, choose)


def decode_bytes(content: bytes, decoding: Decoding, where: str, max_pixels: int) -> Decoded:
    """As ``decode``, of the content of a file.

    Args:
        content: Of the file.
        decoding: What it leaves open.
        where: Begins the message of what is refused.
        max_pixels: The most that is decoded; a small file can hold a huge image.

    Raises:
        UnreadableImage: As ``decode``, or more pixels than allowed. Of broken metadata Pillow warns as it does.
    """
    with (
        _refusals(where, r" <_io\.BytesIO object at \w+>"),
        Image.open(io.BytesIO(content), formats=image_formats()) as image,
    ):
        if image.width * image.height > max_pixels:
            size = f"{image.width:,} x {image.height:,} pixels"
            raise UnreadableImage(f"{where} has {size}, more than {max_pixels:,}; make it smaller")
        return decode_image(image, decoding, where)


@contextmanager
def _refusals(where: str, own_name: str) -> Iterator[None]:
    """Turns what Pillow's readers raise into one line, without its own name (a pattern) for what it read."""
    try:
        yield
    except UserError:
        raise
    except _BROKEN as error:
        way = "repair or remove it"
        if isinstance(error, Image.DecompressionBombError):
            way = "make it smaller or remove it"
        if isinstance(error, OSError) and error.strerror:  # of the operating system, not of the content
            raise UnreadableImage(f"{where} cannot be opened ({error.strerror})") from error
        told = re.sub(
            r" ?<_io\.BytesIO object at \w+>", "", str(error).replace(own_name, "") if own_name else str(error)
        )
        reason = " ".join(told.split()) or type(error).__name__
        raise UnreadableImage(f"{where} cannot be read as an image ({printable(reason)}); {way}") from error


def _decode(path: Path, decoding: Decoding, choose: ChooseBox | None) -> Decoded:
    with Image.open(path, formats=image_formats()) as image:
        if image.format != "JPEG" or image.mode != "RGB" or choose is None:
            return _cut(decode_image(image, decoding, printable(str(path))), choose)
        return Decoded(_part_of_jpeg(image, choose), 255, {})


def _part_of_jpeg(image: Image.Image, choose: ChooseBox) -> Tensor:
    """The part wanted of a photograph, decoded at 1/2, 1/4 or 1/8 of its size where that is twice what is needed."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = image.size
    top, left, rows, columns, least = choose(*((width, height) if turned in _SIDEWAYS else (height, width)))
    factor = next((factor for factor in (8, 4, 2) if min(rows, columns) >= 2 * factor * least), 1)
    if factor > 1:
        image.draft("RGB", (width // factor, height // factor))
        factor = width / image.width
    ImageOps.exif_transpose(image, in_place=True)
    edges = [round(edge / factor) for edge in (left, top, left + columns, top + rows)]
    return _pixels(image.crop((*edges[:2], min(edges[2], image.width), min(edges[3], image.height))))


def _cut(found: Decoded, choose: ChooseBox | None) -> Decoded:
    if choose is None:
        return found
    top, left, height, width, _ = choose(*found.pixels.shape[-2:])
    return found._replace(pixels=found.pixels[:, top : top + height, left : left + width])


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) of an image of mode RGB."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode_image(image: Image.Image, decoding: Decoding, where: str) -> Decoded:
    """An image of Pillow's; of several frames the first. ``where`` begins the message of what is refused.

    Raises:
        UnreadableImage: It holds values beyond its white; what Pillow's readers raise is the caller's.
    """
    remarks: dict[str, str] = {}
    if getattr(image, "is_animated", False):
        image.seek(0)
        remarks["frames"] = "several frames, of which the first is taken"
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode.startswith(("I", "F")):  # Pillow would clip these at 255
        return _deep(np.array(upright), upright.info.get("transparency"), decoding, where, remarks)
    if upright.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        upright = ImageCms.profileToProfile(upright, *profiles, outputMode="RGB")
    if upright.has_transparency_data:
        upright = _composed(upright, decoding, remarks)
    return Decoded(_pixels(upright if upright.mode == "RGB" else upright.convert("RGB")), 255, remarks)


def _composed(image: Image.Image, decoding: Decoding, remarks: dict[str, str]) -> Image.Image:
    image = image.convert("LA") if image.mode == "La" else image
    image = image.convert("RGBA")
    alpha = image.getchannel("A").getextrema()
    if alpha[0] == 255:
        return image
    remarks["transparency"] = f"transparent parts, which get the background {decoding.background} (dataset.background)"
    composed = Image.alpha_composite(Image.new("RGBA", image.size, (*decoding.colour, 255)), image)
    if all(low == high for low, high in composed.convert("RGB").getextrema()):
        remarks["flat"] = (
            f"nothing that can be seen before the background {decoding.background}; "
            f"{'it is transparent everywhere' if alpha[1] == 0 else 'set another dataset.background'}"
        )
    return composed


def _deep(
    pixels: np.ndarray, transparent: int | None, decoding: Decoding, where: str, remarks: dict[str, str]
) -> Decoded:
    depth = "floating-point numbers" if pixels.dtype.kind == "f" else "16 bits"
    white = decoding.white_level or (1.0 if pixels.dtype.kind == "f" else 65535)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= white):
        level = float(high) if low >= 0 and np.isfinite(high) else None
        raise BeyondWhite(f"{where} holds values from {low:g} to {high:g}, expected 0 to {white:g}", depth, level)
    grey = torch.from_numpy(pixels.astype(np.float32) / white)
    colour = grey.expand(3, -1, -1)
    if transparent is not None and (pixels == transparent).any():
        remarks["transparency"] = (
            f"transparent parts, which get the background {decoding.background} (dataset.background)"
        )
        behind = torch.tensor(decoding.colour).view(3, 1, 1) / 255
        colour = torch.where(torch.from_numpy(pixels == transparent), behind, colour)
    return Decoded(colour, white, remarks, depth)
