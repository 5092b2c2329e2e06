"""What a module costs: parameters and multiply-accumulate operations, counted exactly on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zoo.chain.modes import meta_copy, meta_pass


@dataclass(frozen=True)
class Costs:
    """Parameters and multiply-accumulate operations (what papers call FLOPs); costs of parts add up.

    Attributes:
        latency_ns: Nanoseconds on some device, of parts that were timed there; else 0.
    """

    num_params: int = 0
    macs: int = 0
    latency_ns: int = 0

    def __add__(self, other: Costs) -> Costs:
        return Costs(self.num_params + other.num_params, self.macs + other.macs, self.latency_ns + other.latency_ns)


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulate operations of convolutions, matrix products and attention while active.

    Norms, activations and additions are not counted, as is usual.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @property
    def macs(self) -> int:
        """Half the floating-point operations: one multiplication and one addition each."""
        return self.flops // 2

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count_flops = flop_registry.get(func._overloadpacket)
        if count_flops is not None:
            self.flops += int(count_flops(*args, **kwargs, out_val=out))
        return out


def count(module: nn.Module, example_input: torch.Tensor) -> Costs:
    """Costs of the module in evaluation mode on one input; pass a batch of one for the cost per image.

    Counted on the meta device, where nothing is computed and no fused kernel hides its products from the counter
    (on the CPU fused attention does). The module itself is not touched.

    Raises:
        UserError: the module has lazy parameters.
    """
    shadow = meta_copy(module).eval()
    with meta_pass(), MacCounter() as counter:
        shadow(example_input.to("meta"))
    return Costs(num_params(module), counter.macs)


def num_params(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
