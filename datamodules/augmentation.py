"""How training images are varied: every draw is known by seed, epoch and position, whoever loads the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.checks import require_count, require_flag, require_option, require_share, require_strength
from datamodules.images import Box, LabelledImages, convert_channels, fit, resize, statistics
from zoo.entries import InputSpec
from zoo.errors import UserError

POLICIES = (None, "affine", "trivial", "randaugment")
CROPS = ("center", "random_resized", "random_padded")
MAX_MAGNITUDE = 30
"""Of RandAugment, which counts its strengths from 0 in 31 steps."""


@dataclass(frozen=True)
class Affine:
    """Bounds of a uniform random affine map: turned by +-`rotation_degrees`, shifted by +-`shift` (share of the side),
    scaled by a factor from `scale`."""

    rotation_degrees: float = 10.0
    shift: float = 1 / 16
    scale: tuple[float, float] = (0.9, 1.1)

    num_draws = 4

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Distorts float (n, C, H, W) images by uniform draws (n, 4) from [0, 1); outside pixels repeat the border."""
        angle = (2 * draws[:, 0] - 1) * math.radians(self.rotation_degrees)
        factor = self.scale[0] + draws[:, 1] * (self.scale[1] - self.scale[0])
        shift = (2 * draws[:, 2:4] - 1) * self.shift * 2  # the grid of affine_grid runs from -1 to 1
        cos, sin = angle.cos() / factor, angle.sin() / factor
        aspect = images.shape[-1] / images.shape[-2]
        theta = torch.stack([cos, -sin / aspect, shift[:, 0], sin * aspect, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, in this order: crop, flip, colour jitter, policy, erasing.

    Attributes:
        policy: `affine` (see `Affine`), `trivial` (TrivialAugment, 2103.10158), `randaugment` (1909.13719), or None.
        crop: `center` is that of evaluation; `random_resized` cuts out `min_crop_area` of the image or more, at an
            aspect of 3/4 to 4/3; `random_padded` shifts the whole image by up to an eighth of the side.
        flip: Whether left and right are exchanged by chance; not for digits, letters and other one-sided things.
        min_crop_area: Smallest share of the area that `random_resized` leaves.
        num_ops: Operations of RandAugment, one after the other.
        magnitude: Of RandAugment's operations, 0 to `MAX_MAGNITUDE`.
        brightness: Colour jitter: the factor is drawn from [1 - brightness, 1 + brightness].
        contrast: Likewise.
        saturation: Likewise; for colour images.
        hue: Turned by up to +-`hue` of the circle, at most a half; for colour images.
        erasing: Chance that a rectangle of 2 to 33 % of the area becomes the network's mean colour (Random Erasing,
            1708.04896).
    """

    policy: str | None = None
    crop: str = "center"
    flip: bool = False
    min_crop_area: float = 0.25
    num_ops: int = 2
    magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        require_option("augmentation", self.policy, POLICIES)
        require_option("crop", self.crop, CROPS)
        require_flag("flip", self.flip)
        require_share("min_crop_area", self.min_crop_area, whole=True)
        require_count("num_ops", self.num_ops, at_least=1)
        require_count("magnitude", self.magnitude, at_most=MAX_MAGNITUDE)
        for key in ("brightness", "contrast", "saturation"):
            require_strength(key, getattr(self, key), 1)
        require_strength("hue", self.hue, 0.5)
        require_strength("erasing", self.erasing, 1)
        for key in ("num_ops", "magnitude"):
            value = getattr(self, key)
            if value != getattr(Augmentation, key) and self.policy != "randaugment":
                raise UserError(
                    f"dataset.{key}={value} is of RandAugment: leave it out, or type dataset.augmentation=randaugment"
                )

    def __str__(self) -> str:
        words = [] if self.crop == "center" else [f"{self.crop} crop"]
        words += ["flip"] if self.flip else []
        words += [f"{key} {value:g}" for key in _JITTER if (value := getattr(self, key))]
        if self.policy == "randaugment":
            words.append(f"randaugment ({self.num_ops} operations of magnitude {self.magnitude})")
        elif self.policy:
            words.append(self.policy)
        words += [f"erasing {self.erasing:g}"] if self.erasing else []
        return ", ".join(words) or "none"

    @property
    def varies(self) -> bool:
        """Whether epochs differ at all."""
        return self.policy is not None or self.erasing > 0 or self.transforms_images

    @property
    def transforms_images(self) -> bool:
        """Whether there is anything for `transform` to do; `affine` works on batches, erasing comes last."""
        return self.crop != "center" or self.flip or self.jitters or self.policy not in (None, "affine")

    @property
    def jitters(self) -> bool:
        """Whether colours are varied by `brightness`, `contrast`, `saturation` or `hue`."""
        return any(getattr(self, key) for key in _JITTER)

    def require_fits(self, spec: InputSpec) -> None:
        """Refuses what makes no sense for the images that a network takes.

        Raises:
            UserError: Colours of grey images, or a policy for images that are neither grey nor colour.
        """
        if spec.channels in (1, 3):
            for key in ("saturation", "hue"):
                if spec.channels == 1 and getattr(self, key):
                    raise UserError(
                        f"dataset.{key}={getattr(self, key):g} is for colour images, the network takes one channel: "
                        f"type dataset.{key}=0"
                    )
            return
        named = [("augmentation", self.policy, "affine")] if self.policy not in (None, "affine") else []
        named += [(key, f"{getattr(self, key):g}", "0") for key in _JITTER if getattr(self, key)]
        for key, value, allowed in named:
            raise UserError(
                f"dataset.{key}={value} is for grey and colour, the network takes {spec.channels} channels: type "
                f"dataset.{key}={allowed}"
            )

    def transform(self, spec: InputSpec) -> Transform:
        """Maps an image of a source to (C, H, W) for `spec`, uint8 where it is kept so or a policy works on bytes.

        Its draws are torchvision's, from the default generator; see `draw`.

        Raises:
            UserError: See `require_fits`.
        """
        from torchvision.transforms import InterpolationMode, v2  # heavy, and images that do not vary need none of it

        self.require_fits(spec)
        size = (spec.height, spec.width)
        steps: list[Callable[[Tensor], Tensor]] = []
        if self.crop == "random_padded":
            steps.append(v2.RandomCrop(size, padding=[max(1, side // 8) for side in reversed(size)]))
        if self.flip:
            steps.append(_flip)
        if self.jitters:
            steps.append(v2.ColorJitter(**{key: getattr(self, key) for key in _JITTER}))
        if self.policy in ("trivial", "randaugment"):
            bilinear = InterpolationMode.BILINEAR
            policy = v2.TrivialAugmentWide(interpolation=bilinear)
            if self.policy == "randaugment":
                policy = v2.RandAugment(self.num_ops, self.magnitude, MAX_MAGNITUDE + 1, interpolation=bilinear)
            steps += [v2.ToDtype(torch.uint8, scale=True), policy]
        window = v2.RandomResizedCrop(size, scale=(self.min_crop_area, 1.0)) if self.crop == "random_resized" else None
        return Transform(spec, window, steps)

    def erased(self, spec: InputSpec) -> Tensor:
        """By chance a rectangle of an image for `spec`, int64 (4,): top, left, bottom, right; see `draw`."""
        from torchvision.transforms import v2

        mask = v2.RandomErasing(self.erasing, value=[1.0])(torch.zeros(1, spec.height, spec.width))[0]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if not len(rows):
            return torch.zeros(4, dtype=torch.int64)
        return torch.cat([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


class Transform:
    """What happens to one image before it joins a batch: cut out and resized, then one step after the other.

    Args:
        spec: What the network takes.
        window: Draws the part that is cut out, torchvision's `RandomResizedCrop`; None takes what evaluation does.
        steps: Of images (C, H, W) of the size of `spec`.
    """

    def __init__(self, spec: InputSpec, window: Any, steps: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self._spec, self._window, self._steps = spec, window, steps

    def __call__(self, source: LabelledImages, index: int) -> Tensor:
        """The image of that number."""
        spec = self._spec
        if self._window is None:
            image = fit(source.image(index)[None], spec)
        else:
            part = convert_channels(source.window(index, self._box), spec.channels)[None]
            image = resize(part, (spec.height, spec.width), spec.interpolation)
        if image.is_floating_point():
            image = image.clamp(0, 1)  # bicubic interpolation overshoots
        image = image[0]
        for step in self._steps:
            image = step(image)
        return image

    def _box(self, height: int, width: int) -> Box:
        drawn = self._window.make_params([torch.empty(()).expand(1, height, width)])
        place = (drawn[key] for key in ("top", "left", "height", "width"))
        return Box(*place, least=max(self._spec.height, self._spec.width))


def erase(images: Tensor, rectangles: Tensor, spec: InputSpec) -> Tensor:
    """Images (n, C, H, W) in [0, 1] with one rectangle each (n, 4), see `Augmentation.erased`, of `spec`'s mean."""
    top, left, bottom, right = rectangles[:, :, None].unbind(1)
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None]
    return torch.where(inside, statistics(spec, images.device)[0].clamp(0, 1), images)


def draw(transform: Callable[..., Tensor], seed: int, *arguments: Any) -> Tensor:
    """Applies a random transform as the seed has it. torchvision draws from the process's generator, which is left
    as it was; those of accelerators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(*arguments)


def _flip(image: Tensor) -> Tensor:
    return image.flip(-1) if torch.rand(1) < 0.5 else image


_JITTER = ("brightness", "contrast", "saturation", "hue")
