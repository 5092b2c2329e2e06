"""NASWOT: how differently the activation units respond to different images (Mellor et al., ICML 2021), used by [D]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reassembly.proxies.base import Evidence, Proxy
from zoo.ridge import to_float64

DIAGONAL = 1e-3

_aten = torch.ops.aten
ACTIVATIONS = frozenset(
    {
        _aten.relu,
        _aten.relu_,
        _aten.hardtanh,  # ReLU6
        _aten.hardtanh_,
        _aten.leaky_relu,
        _aten.leaky_relu_,
        _aten.elu,
        _aten.elu_,
        _aten.gelu,
        _aten.gelu_,
        _aten.silu,
        _aten.silu_,
        _aten.hardswish,
        _aten.hardswish_,
        _aten.mish,
        _aten.mish_,
        _aten.prelu,
        _aten._prelu_kernel,
    }
)
"""Activations whose output is positive just where their input is, so "output > 0" says whether a unit is on."""


class CodeRecorder(TorchDispatchMode):
    """Adds up, while active, the kernels of the codes of every ReLU-like activation, module or function alike.

    Differs from the paper: it looks at ReLU modules only; here a unit of GELU, SiLU, Hardswish, ... is on where its
    output is positive, which is where its input is.

    Attributes:
        kernel: (b, b) float64 or None before the first activation: units that agree between two images, on top of the
            kernel given at the start.
    """

    def __init__(self, kernel: Tensor | None = None) -> None:
        super().__init__()
        self.kernel = kernel

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in ACTIVATIONS:
            added = code_kernel(out)
            self.kernel = added if self.kernel is None else self.kernel + added
        return out


def code_kernel(outputs: Tensor) -> Tensor:
    """(b, b) float64: units of the outputs (b, ...) that are both on or both off, exact integers.

    One product suffices: with codes c in {-1, 1} of F units, ``x x' + (1 - x)(1 - x)' = (F + c c') / 2``, exact in
    float32 for up to 2^24 units.
    """
    on = outputs.detach().flatten(1) > 0
    codes = on.float().mul_(2).sub_(1)
    with torch.autocast(codes.device.type, enabled=False):
        products = codes @ codes.T
    return to_float64(products).add_(codes.shape[1]).div_(2)


def naswot_score(kernel: Tensor | None) -> float:
    """log det of the (b, b) kernel of agreeing units; higher is better, -inf without any activation unit.

    Differs from the paper: a thousandth of a unit is added to the diagonal, so that images with equal codes (a singular
    kernel) lower the score instead of leaving its sign to rounding.
    """
    if kernel is None:
        return -math.inf
    sign, logdet = torch.linalg.slogdet(kernel + DIAGONAL * torch.eye(len(kernel), dtype=torch.float64).to(kernel))
    assert sign > 0, "the kernel of codes is positive definite"
    return logdet.item()


def _score(evidence: Evidence) -> float:
    return naswot_score(evidence.code_kernel)


NASWOT = Proxy(
    name="naswot",
    score=_score,
    cost="one forward pass and one product of the +-1 codes of every activation, on the first batch of probe images",
    needs=frozenset({"codes"}),
    label="NASWOT: log-determinant of the kernel of activation codes",
)
