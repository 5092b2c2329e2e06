"""Centred kernel alignment (Kornblith et al., ICML 2019, arXiv 1905.00414) from minibatches, unbiased.

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the kernel matrices K of X and L of Y. The usual (biased)
HSIC, averaged over batches, overestimates the similarity by about 0.05 at batches of 256; the unbiased HSIC_1 (Song
et al., JMLR 2012, eq. 5), summed over batches before the quotient is taken (Nguyen et al., ICLR 2021, arXiv
2010.15327, eq. 3), does not.

HSIC_1(K, L) is an inner product <U(K), U(L)> / (n (n - 3)) of U-centred matrices (Székely and Rizzo, 2014), so M
nodes cost M kernel matrices and one matrix product a batch instead of M^2 pairs; memory is M b^2 / 2 numbers for
batches of b.

Matrices of batches are float32, which is twice as fast, and the sums over them float64: the difference to float64
throughout is below 1e-6, where the estimator itself is off by 5e-3 at batches of 256. The exact reference, all images
at once, is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reassembly.similarity.checks import DEAD_VARIANCE, centre_in_units, require_samples
from reassembly.similarity.products import gram

MIN_BATCH = 4  # HSIC_1 divides by n - 3
Kernel = Callable[[Tensor, int], Tensor]

_ROUNDING = {torch.float32: 1e-12, torch.float64: 1e-24}
"""What rounding leaves of the sum of squares of a matrix that U-centring makes zero, as a share of its squared trace,
with a margin."""


class KernelAlignment:
    """Accumulates CKA of M nodes over batches, so that the features of all images need not be held at once.

    Args:
        kernel: Maps a node's mean-free ``(b, d)`` features and its index to the ``(b, b)`` kernel matrix; linear if not
            given.
        unbiased: HSIC_1; ``False`` is the usual biased HSIC (then all images belong in one batch).
        dtype: Of the features that a linear kernel gets, and of its matrices; other kernels are computed in float64.
    """

    def __init__(
        self, kernel: Kernel | None = None, *, unbiased: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        self.kernel = kernel or linear_kernel
        self.unbiased, self.dtype = unbiased, dtype if self.kernel is linear_kernel else torch.float64
        self._products: Tensor | float = 0.0
        self._squared_trace: Tensor | float = 0.0
        self._energy: Tensor | float = 0.0

    def update(self, features: Sequence[Tensor]) -> None:
        """Adds a batch: M tensors ``(b, d_m)`` of the same b >= 4 images; a batch counts in proportion to its size."""
        num_samples, device = require_samples(features, MIN_BATCH), features[0].device
        rows, columns = torch.triu_indices(num_samples, num_samples, offset=1, device=device)
        places = rows * num_samples + columns
        upper = torch.empty(len(features), len(places), dtype=self.dtype, device=device)
        diagonal = torch.empty(len(features), num_samples, dtype=self.dtype, device=device)
        energies, traces, units = [], [], []
        for index, x in enumerate(features):
            centred, unit, *energy = centre_in_units(index, x.to(self.dtype))
            matrix = self.kernel(centred, index).to(self.dtype)
            energies.append(torch.stack(energy))
            traces.append(matrix.diagonal().sum(dtype=torch.float64))
            units.append(unit)
            matrix = _u_centre(matrix) if self.unbiased else _double_centre(matrix)
            torch.index_select(matrix.view(-1), 0, places, out=upper[index])
            diagonal[index] = matrix.diagonal()
        scale = num_samples - 3 if self.unbiased else (num_samples - 1) ** 2 / num_samples  # sums up to b * HSIC
        products = 2 * gram(upper).double()
        if not self.unbiased:  # U-centred matrices have none
            products += gram(diagonal).double()
        units = torch.tensor(units, dtype=torch.float64, device=device).square()
        self._products = self._products + (products * units * units[:, None] / scale).cpu()
        self._squared_trace = self._squared_trace + ((torch.stack(traces) * units).square() / scale).cpu()
        self._energy = self._energy + torch.stack(energies).cpu()

    def compute(self) -> Tensor:
        """``(M, M)`` float64 CKA in [-1, 1] of what was added; 0 wherever a node is dead."""
        assert isinstance(self._products, Tensor), "compute() before the first update()"
        centred_energy, raw_energy = self._energy.unbind(dim=1)
        norms = self._products.diagonal()
        # The second condition: features that differ in one image only leave nothing but rounding after U-centring.
        alive = (centred_energy > DEAD_VARIANCE * raw_energy) & (norms > _ROUNDING[self.dtype] * self._squared_trace)
        weights = torch.where(alive, norms.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
        similarity = weights[:, None] * self._products * weights
        return ((similarity + similarity.T) / 2).clamp(-1.0, 1.0)


def linear_kernel(centred: Tensor, index: int) -> Tensor:
    """X X^T."""
    return gram(centred)


class RBFKernel:
    """exp(-|x - y|^2 / (2 sigma^2)), sigma = ``bandwidth`` times the median distance in the node's first batch.

    Source: Kornblith et al., section 3.
    """

    def __init__(self, bandwidth: float):
        self.bandwidth = bandwidth
        self._variances: dict[int, Tensor] = {}

    def __call__(self, centred: Tensor, index: int) -> Tensor:
        gram = centred @ centred.T
        squares = gram.diagonal()
        distances = (squares[:, None] + squares - 2 * gram).clamp_min(0.0).fill_diagonal_(0.0)
        if index not in self._variances:
            rows, columns = torch.triu_indices(*distances.shape, offset=1, device=distances.device)
            pairs = distances[rows, columns]
            median = pairs.median()
            # Sparse features: where most images coincide the median is 0 and the mean takes its place.
            median = torch.where(median > 0, median, pairs.mean())
            self._variances[index] = (self.bandwidth**2 * median).clamp_min(torch.finfo(torch.float64).tiny)
        return (-distances / (2 * self._variances[index])).exp()


def linear_cka(features: Sequence[Tensor], *, batch_size: int | None = 256, unbiased: bool = True) -> Tensor:
    """Linear CKA of all pairs of nodes.

    Args:
        features: M tensors ``(n, d_m)``, n >= 4.
        batch_size: Largest batch; the images are dealt out into batches of equal size (to one). ``None`` takes all
            images at once: the exact reference, memory M n^2.
        unbiased: ``False`` for the biased estimator of Kornblith et al. (eq. 4), which depends strongly on the batch
            size.

    Raises:
        UserError: Fewer than 4 probe images, or features that are not finite.
    """
    dtype = torch.float64 if batch_size is None else torch.float32
    return _accumulate(features, batch_size, KernelAlignment(linear_kernel, unbiased=unbiased, dtype=dtype))


def rbf_cka(
    features: Sequence[Tensor], *, bandwidth: float = 0.5, batch_size: int | None = 256, unbiased: bool = True
) -> Tensor:
    """CKA with Gaussian kernels, bandwidth as a share of the median distance, float64; otherwise as ``linear_cka``."""
    return _accumulate(features, batch_size, KernelAlignment(RBFKernel(bandwidth), unbiased=unbiased))


def _accumulate(features: Sequence[Tensor], batch_size: int | None, alignment: KernelAlignment) -> Tensor:
    num_samples = len(features[0])
    wanted = 1 if batch_size is None else math.ceil(num_samples / batch_size)
    num_batches = max(1, min(wanted, num_samples // MIN_BATCH))
    for start in range(num_batches):
        # Strides, not slices: no batch is short, and images sorted by class are mixed.
        alignment.update([x[start::num_batches] for x in features])
    return alignment.compute()


def _u_centre(matrix: Tensor) -> Tensor:
    """U-centring: zero diagonal, and every row and column sums to 0; in place."""
    num_samples = len(matrix)
    sums = (matrix.fill_diagonal_(0.0) @ matrix.new_ones(num_samples)).double() / (num_samples - 2)
    shifts = (sums - sums.sum() / (2 * (num_samples - 1))).to(matrix.dtype)
    return matrix.sub_(shifts[:, None]).sub_(shifts).fill_diagonal_(0.0)


def _double_centre(matrix: Tensor) -> Tensor:
    """H K H with H = I - 1 1^T / n."""
    means = matrix.mean(dim=1)
    return matrix - means[:, None] - means + means.mean()
