"""Ridge regression of one feature map on the k x k patches of another, in float64 and bounded memory.

Only the moments X'X, X'Y and Y'Y are kept, never the unfolded patches of all images: one set of moments for each of a
few folds. The positions of one image are not independent, so the folds are made of whole images, and leaving a fold out
is a subtraction of its moments: penalty and kernel size are chosen by the squared error on images that the solution has
not seen, at no further pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties, relative to the variance of a standardised incoming feature."""

NUM_FOLDS = 4
MAX_POSITIONS = 32_768
"""Rows of the regression; above, every image gives the same number of randomly drawn positions."""

MAX_COLUMNS = 9 * 1024
"""Columns of the regression; the moments of all folds and one solution then take about 6 GiB."""

_CHUNK_ELEMENTS = 2**23  # unfolded values held at once: 64 MiB in float64


@dataclass
class Moments:
    """Sums over rows (x, y): count, and the sums of x, y, xx', xy' and of the squares of y."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def zeros(cls, num_x: int, num_y: int, device: torch.device) -> Moments:
        shapes = ((num_x,), (num_y,), (num_x, num_x), (num_x, num_y), (num_y,))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the rows of ``x`` (n, p) and ``y`` (n, q), float64."""
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        width = -(-x.shape[1] // 8)
        for start in range(0, x.shape[1], width):  # the upper triangle, mirrored: 9/16 of the products
            stop = start + width
            products = x[:, start:stop].T @ x[:, start:]
            self.xx[start:stop, start:] += products
            self.xx[stop:, start:stop] += products[:, width:].T
        self.xy.addmm_(x.T, y)
        self.yy += y.square().sum(0)

    def __sub__(self, other: Moments) -> Moments:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Moments(*(mine - theirs for mine, theirs in pairs))

    def __add__(self, other: Moments) -> Moments:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Moments(*(mine + theirs for mine, theirs in pairs))

    def columns(self, kept: slice) -> Moments:
        """The moments of some of the x alone."""
        return Moments(self.count, self.x[kept], self.y, self.xx[kept, kept], self.xy[kept], self.yy)

    def solve(self, ridges: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        """For every ridge r, W (p, q) and b (q) of least |Y - XW - 1b'|^2 / n + r sum_j var(x_j) |w_j|^2.

        The bias is free of penalty. Columns of x without variance get weight 0.
        """
        mean = self.x / self.count
        covariance = self.xx / self.count - torch.outer(mean, mean)
        variance = covariance.diagonal().clone()
        constant = variance <= 1e-9 * (self.xx.diagonal() / self.count)  # below, rounding could outweigh the ridge
        scale = torch.where(constant, 0.0, variance.rsqrt())
        correlation = covariance * torch.outer(scale, scale)
        right = (self.xy / self.count - torch.outer(mean, self.y / self.count)) * scale[:, None]
        solutions = []
        for ridge in ridges:
            damped = correlation + ridge * torch.eye(len(mean), dtype=torch.float64, device=mean.device)
            weight = torch.cholesky_solve(right, torch.linalg.cholesky(damped)) * scale[:, None]
            solutions.append((weight, self.y / self.count - mean @ weight))
        return solutions

    def squared_error(self, weight: Tensor, bias: Tensor) -> float:
        """Sum over rows and columns of (y - W'x - b)^2."""
        fitted = (weight * (self.xx @ weight)).sum() + 2 * (self.x @ weight) @ bias + self.count * bias @ bias
        crossed = (weight * self.xy).sum() + self.y @ bias
        return float(self.yy.sum() - 2 * crossed + fitted)

    def variation(self) -> float:
        """Sum of squares of y about its mean."""
        return float((self.yy - self.y.square() / self.count).sum())


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
        self.num_positions = max(1, min(grid[0] * grid[1], MAX_POSITIONS // num_images))
        self.generator = torch.Generator().manual_seed(seed)
        self.fold_of_image = torch.randperm(num_images, generator=self.generator) % min(NUM_FOLDS, num_images)
        self.chunk_size = max(1, _CHUNK_ELEMENTS // (num_x * kernel_size**2 * grid[0] * grid[1]))
        self.folds: list[Moments] = []

    def schedule(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (fold, indices of images) in pieces small enough to be unfolded."""
        for fold in range(int(self.fold_of_image.max()) + 1):
            for images in (self.fold_of_image == fold).nonzero().flatten().split(self.chunk_size):
                yield fold, images

    def add(self, fold: int, x: Tensor, y: Tensor) -> None:
        """Add images: ``x`` (n, num_x, H, W), ``y`` (n, num_y, H, W)."""
        if fold == len(self.folds):
            self.folds.append(Moments.zeros(self.num_x * self.kernel_size**2, self.num_y, x.device))
        # Offset-major columns: those of the centre, which are the 1x1 regression, lie together.
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        patches = patches.unflatten(1, (self.num_x, -1)).transpose(1, 2).flatten(1, 2)
        values = y.flatten(2)
        if self.num_positions < values.shape[2]:
            drawn = torch.rand(len(x), values.shape[2], generator=self.generator)
            drawn = drawn.topk(self.num_positions).indices[:, None].to(x.device)
            patches = patches.gather(2, drawn.expand(-1, patches.shape[1], -1))
            values = values.gather(2, drawn.expand(-1, values.shape[1], -1))
        self.folds[fold].add(_rows(patches), _rows(values))

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
    return x.transpose(1, 2).reshape(-1, x.shape[1]).double()
