"""Adapters: the stitch between any two signals, its cost, and its closed-form initialisation.

    strip prefix tokens -> NCHW -> resize to the target's grid -> norm -> projection -> activation
    -> the target's layout -> the target's prefix tokens

Two kinds: ``linear`` is a convolution alone, 1x1 or 3x3; ``paper`` is that of Deep Model Reassembly (arXiv 2210.17409):
batch norm, 1x1 convolution, LeakyReLU(0.1). Resizing to the target's own (native) grid makes the cost of what follows
independent of what came before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from zoo.chain import Costs
from zoo.chain.batches import Rows, batches_of
from zoo.chain.signals import Signal, to_grid
from zoo.errors import UserError
from zoo.ridge import to_float64
from zoo.stitching.closed_form import MAX_COLUMNS, PatchMoments, choose

Kind = Literal["linear", "paper"]
NEGATIVE_SLOPE = 0.1
_AT_ONCE = 64  # images of features in memory that go into the moments at once


class Adapter(nn.Module):
    """Maps tensors of one signal to tensors of another.

    Args:
        source: what comes in; its grid may differ from the one given here.
        target: what goes out.
        kind: ``linear`` or ``paper``.
        kernel_size: 1 or 3 (``linear`` only); where one side has no grid there are no neighbours, and 3 means 1.
        generator: of the initial weights, on the CPU; without one, a fresh generator with seed 0.
        is_residual: what comes in is added to what the adapter makes of it, and the weights begin at zero, so that the
            initial function is the identity, bit for bit; only ``linear``, from a signal to the same.

    Attributes:
        memory_format: of what goes out where that is NCHW; ``trainer.channels_last`` sets it.

    Raises:
        UserError: unknown kind or kernel size.
    """

    memory_format = torch.contiguous_format

    def __init__(
        self,
        source: Signal,
        target: Signal,
        *,
        kind: Kind = "linear",
        kernel_size: int = 1,
        generator: torch.Generator | None = None,
        is_residual: bool = False,
    ) -> None:
        super().__init__()
        if is_residual and (kind != "linear" or source != target):
            raise ValueError(f"no residual adapter of kind {kind}, {source} -> {target}")
        self.is_residual = is_residual
        self.source, self.target, self.kind = source, target, kind
        self.kernel_size = usable_kernel_size(source, target, kind, kernel_size)
        self.norm = nn.BatchNorm2d(source.channels) if kind == "paper" else nn.Identity()
        self.projection = skip_init(
            nn.Conv2d, source.channels, target.channels, self.kernel_size, padding=self.kernel_size // 2
        )
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE) if kind == "paper" else nn.Identity()
        self.prefix = None
        if target.num_prefix_tokens:
            self.prefix = nn.Parameter(torch.empty(1, target.num_prefix_tokens, target.channels))
        self.reset_parameters(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw random weights that keep the variance of what comes in; zero bias; small prefix tokens.

        Of a residual adapter all of them are zero.
        """
        if self.is_residual:
            for parameter in self.parameters():
                parameter.zero_()
            return
        deviation = 1 / math.sqrt(self.projection.weight[0].numel())
        if self.kind == "paper":
            deviation *= nn.init.calculate_gain("leaky_relu", NEGATIVE_SLOPE)
        self.projection.weight.normal_(0, deviation, generator=generator)
        self.projection.bias.zero_()
        if self.prefix is not None:
            self.prefix.normal_(0, 0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_residual:
            return x + self._from_grid(self.projection(to_grid(x, self.source)))
        x = self.norm(resize(to_grid(x, self.source), native_grid(self.target)))
        return self._from_grid(self.activation(self.projection(x)))

    def _from_grid(self, x: Tensor) -> Tensor:
        return from_grid(x, self.target, self.prefix, self.memory_format)

    def extra_repr(self) -> str:
        return f"{self.source} -> {self.target}, kind={self.kind}, kernel_size={self.kernel_size}"


@dataclass(frozen=True)
class AdapterFit:
    """An adapter in closed form.

    Attributes:
        adapter: a new adapter with the solution in it.
        ridge: the penalty chosen, relative to the variance of the incoming features.
        error: cross-validated share of the variance of the home features that is not explained (1 - R^2), 0 is
            perfect; images left out were unseen. For ``paper`` it is that of the values before the activation.
    """

    adapter: Adapter
    ridge: float
    error: float


def usable_kernel_size(source: Signal, target: Signal, kind: Kind, kernel_size: int) -> int:
    """The kernel size that an adapter really has: 3 means 1 where one side has no grid."""
    if kind not in ("linear", "paper"):
        raise UserError(f"adapter kind {kind!r} is unknown: use linear or paper")
    if kernel_size not in ((1,) if kind == "paper" else (1, 3)):
        allowed = "1" if kind == "paper" else "1 or 3"
        raise UserError(f"adapter kernel_size {kernel_size!r} does not exist for kind {kind}: use {allowed}")
    return 1 if source.grid is None or target.grid is None else kernel_size


def adapter_costs(source: Signal, target: Signal, kind: Kind = "linear", kernel_size: int = 1) -> Costs:
    """Exact parameters and MACs of ``Adapter(source, target, ...)`` without building it."""
    height, width = native_grid(target)
    taps = source.channels * usable_kernel_size(source, target, kind, kernel_size) ** 2
    norm = 2 * source.channels if kind == "paper" else 0
    prefix = target.num_prefix_tokens * target.channels
    return Costs(num_params=(taps + 1) * target.channels + norm + prefix, macs=taps * target.channels * height * width)


@torch.no_grad()
def closed_form_adapter(
    source: Signal,
    target: Signal,
    inputs: Rows,
    targets: Rows,
    *,
    kind: Kind = "linear",
    kernel_size: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> AdapterFit:
    """Ridge regression from incoming features to the features that the next block received at home.

    Penalty and, with ``auto``, kernel size are those of least cross-validated error over images (see
    ``zoo.stitching.closed_form``); ``auto`` costs no more than 3, since the moments of the 1x1 are among those of the
    3x3. Prefix tokens become the mean of those at home.

    The norm of ``paper`` takes the statistics of the incoming features. Its projection is fitted to the home features
    with their negative values divided by the square root of the activation's slope: midway between no inverse, with
    which the activation shrinks them, and the exact inverse, which gives their errors tenfold weight. Measured on the
    embedded zoo, the outputs leave 0.77 of the variance unexplained, against 0.80 and 0.97. Values that are not
    negative, as those after a ReLU, are the same in all three.

    Args:
        source: signal of ``inputs``.
        target: signal of ``targets``.
        inputs: what comes in for the probe images, n first; where not all fit into memory, in batches.
        targets: what the next block received at home for the same images, n first; in batches where ``inputs`` is,
            of the same sizes. Batches are gone through once, for ``paper`` those of ``inputs`` twice.
        kind: ``linear`` or ``paper``.
        kernel_size: 1, 3 or ``auto``.
        seed: of the folds and of the positions drawn.

    Raises:
        UserError: fewer than two images, not the same number on both sides, features that are not finite, or 3x3 over
            so many channels that the regression would not fit into memory (``auto`` then takes 1).
    """
    if len(inputs) != len(targets) or len(inputs) < 2:
        raise UserError(
            f"closed-form adapter: got {len(inputs)} incoming and {len(targets)} home features; expected the same "
            "number of images, at least 2"
        )
    sizes = _kernel_sizes(source, target, kind, kernel_size)

    norm = nn.Identity()
    if kind == "paper":
        norm = _norm_of(source, inputs)
    moments = PatchMoments(source.channels, target.channels, max(sizes), native_grid(target), len(inputs), seed)
    prefix: Tensor | float = 0.0
    for incoming, home in zip(batches_of(inputs, _AT_ONCE), batches_of(targets, _AT_ONCE), strict=True):
        for name, features in (("incoming", incoming), ("home", home)):
            if not torch.isfinite(features).all():
                raise UserError(f"closed-form adapter {source} -> {target}: the {name} features are not finite")
        x = norm(resize(to_grid(incoming, source), native_grid(target)))
        y = to_grid(home, target)
        if kind == "paper":
            y = torch.where(y < 0, y / math.sqrt(NEGATIVE_SLOPE), y)
        moments.add(x, y)
        prefix = prefix + to_float64(home[:, : target.num_prefix_tokens]).sum(0, keepdim=True)
    solution = choose(moments, sizes)

    adapter = Adapter(source, target, kind=kind, kernel_size=solution.kernel_size).to(incoming.device)
    if kind == "paper":
        adapter.norm = norm.train()
    adapter.projection.weight.copy_(solution.weight)
    adapter.projection.bias.copy_(solution.bias)
    if adapter.prefix is not None:
        adapter.prefix.copy_(prefix / len(targets))
    return AdapterFit(adapter, solution.ridge, solution.error)


def _kernel_sizes(source: Signal, target: Signal, kind: Kind, kernel_size: int | Literal["auto"]) -> tuple[int, ...]:
    """The kernel sizes to choose from, smaller first."""
    if kernel_size == "auto":
        larger = () if kind == "paper" or 9 * source.channels > MAX_COLUMNS else (3,)
        return tuple(dict.fromkeys(usable_kernel_size(source, target, kind, size) for size in (1, *larger)))
    size = usable_kernel_size(source, target, kind, kernel_size)
    if size == 3 and 9 * source.channels > MAX_COLUMNS:
        raise UserError(
            f"closed-form adapter {source} -> {target}: 3x3 over {source.channels} channels does not fit into memory; "
            f"use kernel_size=auto or 1, or networks of at most {MAX_COLUMNS // 9} channels"
        )
    return (size,)


def _norm_of(source: Signal, inputs: Rows) -> nn.BatchNorm2d:
    """A norm in eval mode with the statistics of the incoming features on their own grid."""
    count, mean, squares = 0, 0.0, 0.0
    for batch in batches_of(inputs, _AT_ONCE):
        values = to_float64(to_grid(batch, source)).transpose(0, 1).flatten(1)
        number = values.shape[1]
        count += number
        step = values.mean(1) - mean
        mean = mean + step * (number / count)
        squares = squares + values.var(1, unbiased=False) * number + step.square() * number * (1 - number / count)
    norm = nn.BatchNorm2d(source.channels).to(batch.device).eval()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(squares / max(count - 1, 1))
    return norm


def resize(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, C, H, W) to another grid: area averaging along an axis that shrinks, bilinear along one that grows."""
    height, width = x.shape[-2:]
    smaller = (min(height, grid[0]), min(width, grid[1]))
    if smaller != (height, width):
        x = F.adaptive_avg_pool2d(x, smaller)
    if smaller != grid:
        x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
    return x


def native_grid(signal: Signal) -> tuple[int, int]:
    """The signal's grid; a vector (NC) counts as one position."""
    return signal.grid or (1, 1)


def from_grid(
    x: Tensor,
    signal: Signal,
    prefix: Tensor | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """(N, C, H, W) to the signal's layout, contiguous; ``prefix`` (1, P, C) are the tokens put in front.

    NCHW comes in the memory format asked for: what follows runs in it.
    """
    if signal.layout == "NCHW":
        return x.contiguous(memory_format=memory_format)
    if signal.layout == "NHWC":
        return x.permute(0, 2, 3, 1).contiguous()
    if signal.layout == "NC":
        return x.flatten(1)
    tokens = x.flatten(2).transpose(1, 2)
    if prefix is None:
        return tokens.contiguous()
    batch_size = tokens.shape[0]  # not len(), which is a plain number and fixes the batch when exported
    return torch.cat([prefix.expand(batch_size, -1, -1), tokens], dim=1)
