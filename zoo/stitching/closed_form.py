"""Ridge regression of one feature map on the k x k patches of another, in float64 and bounded memory.

Only moments (``zoo.ridge``) are kept, never the unfolded patches nor the feature maps of all images: one set of moments
for each of a few folds. The positions of one image are not independent, so the folds are made of whole images, and
leaving a fold out is a subtraction of its moments: penalty and kernel size are chosen by the squared error on images
that the solution has not seen, at no further pass over the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.ridge import Moments, to_float64

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties, relative to the variance of a standardised incoming feature."""

NUM_FOLDS = 4
MAX_POSITIONS = 32_768
"""Rows of the regression; above, every image gives the same number of randomly drawn positions."""

MAX_COLUMNS = 9 * 1024
"""Columns of the regression; the moments of all folds and one solution then take about 6 GiB."""

_SKIPPED_AT_ONCE = 256
_CHUNK_ELEMENTS = 2**23  # unfolded values held at once: 64 MiB in float64


@dataclass(frozen=True)
class Solution:
    """A convolution in closed form: weight (q, p, k, k), bias (q), penalty, cross-validated 1 - R^2."""

    weight: Tensor
    bias: Tensor
    kernel_size: int
    ridge: float
    error: float


class PatchMoments:
    """Moments between k x k patches (zero padding) of x and the values of y at their centres, by fold of images."""

    def __init__(
        self, num_x: int, num_y: int, kernel_size: int, grid: tuple[int, int], num_images: int, seed: int
    ) -> None:
        self.num_x, self.num_y, self.kernel_size = num_x, num_y, kernel_size
        self.num_grid_positions = grid[0] * grid[1]
        self.num_positions = max(1, min(self.num_grid_positions, MAX_POSITIONS // num_images))
        generator = torch.Generator().manual_seed(seed)
        self.fold_of_image = torch.randperm(num_images, generator=generator) % min(NUM_FOLDS, num_images)
        self.chunk_size = max(1, _CHUNK_ELEMENTS // (num_x * kernel_size**2 * self.num_grid_positions))
        self.num_folds = int(self.fold_of_image.max()) + 1
        self.num_seen = 0
        self.folds: list[Moments] = []
        self.generators = self._generators(generator) if self.num_positions < self.num_grid_positions else []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the next images: ``x`` (n, num_x, H, W), ``y`` (n, num_y, H, W)."""
        if not self.folds:
            num_columns = self.num_x * self.kernel_size**2
            self.folds = [
                Moments.zeros(num_columns, self.num_y, to_float64(x[:0]).device) for _ in range(self.num_folds)
            ]
        fold_of_image = self.fold_of_image[self.num_seen : self.num_seen + len(x)]
        self.num_seen += len(x)
        for fold in range(self.num_folds):
            for images in (fold_of_image == fold).nonzero().flatten().split(self.chunk_size):
                self._add(fold, x[images.to(x.device)], y[images.to(y.device)])

    def _add(self, fold: int, x: Tensor, y: Tensor) -> None:
        # Offset-major columns: those of the centre, which are the 1x1 regression, lie together.
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        patches = patches.unflatten(1, (self.num_x, -1)).transpose(1, 2).flatten(1, 2)
        values = y.flatten(2)
        if self.generators:
            drawn = torch.rand(len(x), self.num_grid_positions, generator=self.generators[fold])
            drawn = drawn.topk(self.num_positions).indices[:, None].to(x.device)
            patches = patches.gather(2, drawn.expand(-1, patches.shape[1], -1))
            values = values.gather(2, drawn.expand(-1, values.shape[1], -1))
        self.folds[fold].add(_rows(patches), _rows(values))

    def _generators(self, generator: torch.Generator) -> list[torch.Generator]:
        """Of every fold, each where the one before ends: what is drawn does not depend on how images come."""
        generators = []
        for count in torch.bincount(self.fold_of_image).tolist():
            generators.append(torch.Generator())
            generators[-1].set_state(generator.get_state())
            for start in range(0, count, _SKIPPED_AT_ONCE):
                rows = min(_SKIPPED_AT_ONCE, count - start)
                torch.rand(rows, self.num_grid_positions, generator=generator)
        return generators

    def of_kernel(self, kernel_size: int) -> list[Moments]:
        """The folds' moments for this or a smaller kernel size (the centre of the patches)."""
        if kernel_size == self.kernel_size:
            return self.folds
        centre = self.kernel_size**2 // 2
        return [fold.columns(slice(centre * self.num_x, (centre + 1) * self.num_x)) for fold in self.folds]


def choose(moments: PatchMoments, kernel_sizes: Sequence[int], ridges: Sequence[float] = RIDGES) -> Solution:
    """Solve on all images with the kernel size and ridge of least squared error on left-out folds.

    Ties go to the earlier kernel size and ridge.
    """
    candidates = []
    for kernel_size in kernel_sizes:
        folds = moments.of_kernel(kernel_size)
        total = sum(folds[1:], start=folds[0])
        errors = torch.zeros(len(ridges), dtype=torch.float64)
        for fold in folds:
            solutions = (total - fold).solve(ridges)
            errors += torch.tensor([fold.squared_error(*solution) for solution in solutions], dtype=torch.float64)
        best = int(errors.argmin())
        candidates.append((float(errors[best]), kernel_size, ridges[best], total))
    error, kernel_size, ridge, total = min(candidates, key=lambda candidate: candidate[0])
    ((weight, bias),) = total.solve([ridge])
    weight = weight.T.reshape(moments.num_y, kernel_size, kernel_size, moments.num_x).permute(0, 3, 1, 2)
    variation = total.variation()
    return Solution(weight, bias, kernel_size, ridge, error / variation if variation > 0 else 0.0)


def _rows(x: Tensor) -> Tensor:
    return to_float64(x.transpose(1, 2).reshape(-1, x.shape[1]))
