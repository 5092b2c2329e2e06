"""Ridge regression out of moments: the one core of every closed form, in float64.

Rows come in batches and go: what is kept are their number, means and centred products, so that memory is O(p^2 + p q)
however many rows there are. Batches are merged as in Chan, Golub and LeVeque (1983), by their means: no large sums
cancel, and the order and size of the batches change the last digits at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Moments of rows (x, y), each row with a weight.

    Attributes:
        count: Sum of the weights; of rows without weights their number.
        x: (p,) mean of x.
        y: (q,) mean of y.
        xx: (p, p) sum of w (x - mean)(x - mean)'.
        xy: (p, q) sum of w (x - mean)(y - mean)'.
        yy: (q,) sum of w (y - mean)^2.
    """

    count: float
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def zeros(cls, num_x: int, num_y: int, device: torch.device | str = "cpu") -> Moments:
        """The moments of no rows."""
        shapes = ((num_x,), (num_y,), (num_x, num_x), (num_x, num_y), (num_y,))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Adds rows x (n, p) and y (n, q), float64, of weights (n,), 1 each if not given."""
        count = len(x) if weights is None else float(weights.sum())
        if not count:
            return
        share = (x.new_ones(len(x)) if weights is None else weights.to(x)) / count
        mean_x, mean_y = share @ x, share @ y
        x, y = x - mean_x, y - mean_y
        heavy = x if weights is None else x * weights.to(x)[:, None]
        self._shift(count, mean_x, mean_y)
        width = -(-x.shape[1] // 8)
        for start in range(0, x.shape[1], width):  # the upper triangle, mirrored: 9/16 of the products
            stop = start + width
            products = heavy[:, start:stop].T @ x[:, start:]
            self.xx[start:stop, start:] += products
            self.xx[stop:, start:stop] += products[:, width:].T
        self.xy.addmm_(heavy.T, y)
        self.yy += y.square().sum(0) if weights is None else weights.to(y) @ y.square()

    def __add__(self, other: Moments) -> Moments:
        """The moments of the rows of both."""
        merged = self._copy()
        if other.count:
            merged._shift(other.count, other.x, other.y)
            for mine, theirs in ((merged.xx, other.xx), (merged.xy, other.xy), (merged.yy, other.yy)):
                mine += theirs
        return merged

    def __sub__(self, other: Moments) -> Moments:
        """The moments of the rows that are here and not in the other, whose rows are all here."""
        rest = self._copy()
        if other.count:
            rest._shift(-other.count, other.x, other.y)
            for mine, theirs in ((rest.xx, other.xx), (rest.xy, other.xy), (rest.yy, other.yy)):
                mine -= theirs
        return rest

    def columns(self, kept: slice) -> Moments:
        """The moments of some of the x alone."""
        return Moments(self.count, self.x[kept], self.y, self.xx[kept, kept], self.xy[kept], self.yy)

    def deviation(self) -> Tensor:
        """(p,) standard deviation of every x."""
        return (self.xx.diagonal().clamp_min(0) / self.count).sqrt()

    def solve(self, ridges: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        """For every ridge r, W (p, q) and b (q) of least sum w |y - W'x - b|^2 / count + r sum_j var(x_j) |w_j|^2.

        The bias is free of penalty. Columns of x without variance get weight 0.
        """
        scale = self._scale()
        correlation = self._correlation(scale)
        right = self.xy / self.count * scale[:, None]
        solutions = []
        for ridge in ridges:
            weight = damped_solve(correlation, right, ridge) * scale[:, None]
            solutions.append((weight, self.y - self.x @ weight))
        return solutions

    def squared_error(self, weight: Tensor, bias: Tensor) -> float:
        """Sum over rows and columns of w (y - W'x - b)^2, for W (p, q) and b (q)."""
        about_mean = self.yy.sum() - 2 * (weight * self.xy).sum() + (weight * (self.xx @ weight)).sum()
        return float(about_mean + self.count * (self.y - self.x @ weight - bias).square().sum())

    def num_effective(self, ridge: float) -> float:
        """Effective degrees of freedom of the fit with a ridge, the bias among them: the trace of its hat matrix."""
        values = torch.linalg.eigvalsh(self._correlation(self._scale())).clamp_min(0)
        return 1 + float((values / (values + ridge)).sum())

    def generalised_error(self, ridge: float, num_rows: float) -> float:
        """Generalised cross-validation of the fit with a ridge: an estimate of its error on rows that it has not seen.

        Source: Golub, Heath and Wahba (Technometrics 1979): mean squared error / (1 - degrees of freedom / rows)^2.

        Args:
            ridge: As in ``solve``.
            num_rows: How many rows of the same weight say as much as those that are here.

        Returns:
            Summed over y; infinite if the fit has as many degrees of freedom as there are rows.
        """
        left = 1 - self.num_effective(ridge) / num_rows
        ((weight, bias),) = self.solve([ridge])
        return self.squared_error(weight, bias) / self.count / left**2 if left > 0 else math.inf

    def variation(self) -> float:
        """Sum of squares of y about its mean."""
        return float(self.yy.sum())

    def _scale(self) -> Tensor:
        """(p,) one over the scales, see ``column_scales``; 0 where x is constant."""
        deviation = self.deviation()
        # Below, the noise of float32 could outweigh the ridge.
        constant = deviation.square() <= 1e-9 * (self.x.square() + deviation.square())
        return torch.where(constant, 0.0, 1 / column_scales(deviation, constant))

    def _correlation(self, scale: Tensor) -> Tensor:
        return self.xx / self.count * torch.outer(scale, scale)

    def _copy(self) -> Moments:
        return Moments(self.count, *(part.clone() for part in (self.x, self.y, self.xx, self.xy, self.yy)))

    def _shift(self, count: float, x: Tensor, y: Tensor) -> None:
        """Makes room for rows of this weight and these means; a negative weight takes rows away."""
        total = self.count + count
        if total <= 0:
            raise ValueError("no rows are left")
        step_x, step_y = x - self.x, y - self.y
        between = self.count * count / total  # of the two means, about the mean of both
        self.xx.addr_(step_x, step_x, alpha=between)
        self.xy.addr_(step_x, step_y, alpha=between)
        self.yy += between * step_y.square()
        self.x, self.y = self.x + step_x * (count / total), self.y + step_y * (count / total)
        self.count = total


LEAST_SCALE = 1e-3
"""As a share of the median one."""


def column_scales(deviation: Tensor, constant: Tensor) -> Tensor:
    """The scales (p,) by which columns are penalised alike: their deviations, and 1 where they are constant.

    No scale is less than ``LEAST_SCALE`` of the median one. A column that is zero but for a trace in one row would else
    count as much as any other, with a weight in proportion, and on a row where it is no trace decide alone. Leaving
    rows out does not tell: without that row nothing is left of the column.
    """
    if constant.all():
        return torch.ones_like(deviation)
    least = LEAST_SCALE * deviation[~constant].median()
    return torch.where(constant, 1.0, deviation.clamp_min(least))


NO_FLOAT64 = frozenset({"mps"})
"""Kinds of devices that have no float64."""


def to_float64(x: Tensor) -> Tensor:
    """The numbers in float64, on their device, or on the CPU where their device has none."""
    return (x.cpu() if x.device.type in NO_FLOAT64 else x).double()


def damped_solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """(G + ridge I)^-1 R of symmetric G (..., p, p) without negative eigenvalues and R (..., p, q)."""
    damped = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(damped)
    if not info.any():
        return torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(gram)  # rounding has made eigenvalues of few rows smaller than minus the ridge
    return vectors @ ((vectors.mT @ right) / (values.clamp_min(0) + ridge).unsqueeze(-1))
