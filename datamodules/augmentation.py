"""How training images are varied: every draw is known by seed, epoch and position, whoever loads the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.checks import require_count, require_flag, require_option, require_share, require_strength
from datamodules.images import convert_channels, resize_and_crop
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

    def transform(self, spec: InputSpec) -> nn.Module:
        """Maps an image (C, H, W) as it is kept to float32 (C, H, W) in [0, 1] for `spec`; see `draw`.

        Raises:
            UserError: See `require_fits`.
        """
        from torchvision.transforms import InterpolationMode, v2  # heavy, and images that do not vary need none of it

        self.require_fits(spec)
        size, interpolation = (spec.height, spec.width), InterpolationMode(spec.interpolation)
        steps: list[nn.Module] = []
        if self.crop == "random_resized":
            steps += [
                v2.Lambda(partial(convert_channels, channels=spec.channels)),
                v2.RandomResizedCrop(size, scale=(self.min_crop_area, 1.0), interpolation=interpolation),
                v2.ToDtype(torch.float32, scale=True),
                v2.Lambda(partial(torch.clamp, min=0, max=1)),  # bicubic interpolation overshoots
            ]
        else:
            steps.append(v2.Lambda(partial(_resize_and_crop_one, spec=spec)))
        if self.crop == "random_padded":
            steps.append(v2.RandomCrop(size, padding=[max(1, side // 8) for side in reversed(size)]))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.jitters:
            steps.append(v2.ColorJitter(**{key: getattr(self, key) for key in _JITTER}))
        if self.policy in ("trivial", "randaugment"):
            bilinear = InterpolationMode.BILINEAR
            policy = v2.TrivialAugmentWide(interpolation=bilinear)
            if self.policy == "randaugment":
                policy = v2.RandAugment(self.num_ops, self.magnitude, MAX_MAGNITUDE + 1, interpolation=bilinear)
            steps += [v2.ToDtype(torch.uint8, scale=True), policy]
        return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])

    def erase(self, image: Tensor, spec: InputSpec) -> Tensor:
        """An image (C, H, W), uint8 or in [0, 1], with a rectangle of `spec`'s mean by chance; see `draw`."""
        from torchvision.transforms import v2

        scale = 255 if image.dtype == torch.uint8 else 1
        mean = [min(max(value, 0.0), 1.0) * scale for value in spec.mean]
        return v2.RandomErasing(self.erasing, value=mean)(image)


def draw(transform: Callable[[Tensor], Tensor], image: Tensor, seed: int) -> Tensor:
    """Applies a random transform as the seed has it. torchvision draws from the process's generator, which is left
    as it was; those of accelerators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(image)


def _resize_and_crop_one(image: Tensor, *, spec: InputSpec) -> Tensor:
    return resize_and_crop(image[None], spec)[0]


_JITTER = ("brightness", "contrast", "saturation", "hue")
