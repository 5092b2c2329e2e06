"""Looking at a network without leaving a trace on it: evaluation mode that is undone, and copies without data."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from zoo.errors import UserError

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the ``with``; afterwards every submodule has the mode it had."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for m, training in modes:
            m.training = training


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy of the module on the meta device, in the same modes, without its data and without its hooks.

    Nothing of the size of the weights is allocated, whatever device they are on.

    Raises:
        UserError: a parameter has no shape yet (lazy modules).
    """
    memo: dict[int, object] = {}
    for name, m in module.named_modules():
        for attribute in HOOKS:
            memo[id(vars(m)[attribute])] = OrderedDict()
        for tensor in tree_leaves([m._parameters, m._buffers, list(vars(m).values())]):
            if not isinstance(tensor, torch.Tensor):
                continue
            if is_lazy(tensor):
                raise UserError(
                    f"{type(module).__name__} has lazy parameters without a shape in {name or 'its root'}: "
                    "call it once on an example input first"
                )
            memo[id(tensor)] = _meta_twin(tensor)
    return copy.deepcopy(module, memo)


def _meta_twin(tensor: torch.Tensor) -> torch.Tensor:
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin
