"""How training images are varied: every draw is known by seed, epoch and position, whoever loads the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from datamodules.checks import require_flag, require_option, require_share
from datamodules.images import convert_channels, resize_and_crop
from zoo.entries import InputSpec
from zoo.errors import UserError

POLICIES = (None, "affine", "trivial", "randaugment")
CROPS = ("center", "random_resized", "random_padded")


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
    """What may happen to a training image, in this order: crop, flip, policy.

    Attributes:
        policy: `affine` (see `Affine`), `trivial` (TrivialAugment, 2103.10158), `randaugment` (1909.13719: two
            operations of magnitude 9), or None.
        crop: `center` is that of evaluation; `random_resized` cuts out `min_crop_area` of the image or more, at an
            aspect of 3/4 to 4/3; `random_padded` shifts the whole image by up to an eighth of the side.
        flip: Whether left and right are exchanged by chance; not for digits, letters and other one-sided things.
        min_crop_area: Smallest share of the area that `random_resized` leaves.
    """

    policy: str | None = None
    crop: str = "center"
    flip: bool = False
    min_crop_area: float = 0.25

    def __post_init__(self) -> None:
        require_option("augmentation", self.policy, POLICIES)
        require_option("crop", self.crop, CROPS)
        require_flag("flip", self.flip)
        require_share("min_crop_area", self.min_crop_area, whole=True)

    def __str__(self) -> str:
        crop = () if self.crop == "center" else (f"{self.crop} crop",)
        return ", ".join([*crop, *(["flip"] if self.flip else []), *([self.policy] if self.policy else [])]) or "none"

    @property
    def varies(self) -> bool:
        """Whether epochs differ at all."""
        return self.policy is not None or self.transforms_images

    @property
    def transforms_images(self) -> bool:
        """Whether there is anything to do image by image; `affine` alone works on batches."""
        return self.crop != "center" or self.flip or self.policy not in (None, "affine")

    def transform(self, spec: InputSpec) -> nn.Module:
        """Maps an image (C, H, W) as it is kept to float32 (C, H, W) in [0, 1] for `spec`; see `draw`.

        Raises:
            UserError: A policy for images that are neither grey nor colour.
        """
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
        if self.policy in ("trivial", "randaugment"):
            if spec.channels not in (1, 3):
                raise UserError(
                    f"dataset.augmentation={self.policy} is for grey and colour, the network takes {spec.channels} "
                    "channels: type dataset.augmentation=affine"
                )
            policy = v2.TrivialAugmentWide if self.policy == "trivial" else v2.RandAugment
            steps += [v2.ToDtype(torch.uint8, scale=True), policy(interpolation=InterpolationMode.BILINEAR)]
        return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


def draw(transform: nn.Module, image: Tensor, seed: int) -> Tensor:
    """Applies a random transform as the seed has it. torchvision draws from the process's generator, which is left
    as it was; those of accelerators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(image)


def _resize_and_crop_one(image: Tensor, *, spec: InputSpec) -> Tensor:
    return resize_and_crop(image[None], spec)[0]
