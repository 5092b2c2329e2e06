"""Looking at a network without leaving a trace on it: evaluation mode that is undone, copies without data."""

from __future__ import annotations

import copy
import functools
import gc
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves

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


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples, dicts and what torch's pytrees know besides, in order.

    As ``tree_leaves`` finds them, without its many steps for each of the plain arguments of each operation.
    """
    if isinstance(tree, torch.Tensor):
        yield tree
    elif type(tree) is list or isinstance(tree, tuple):
        for child in tree:
            yield from tensors(child)
    elif type(tree) is dict:
        for child in tree.values():
            yield from tensors(child)
    elif type(tree) in SUPPORTED_NODES:
        yield from (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


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


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Inside the ``with`` a GPU's products of float32 are in full precision, or with the ten bits of TF32's mantissa.

    Left alone, matrix products are the one and cuDNN's convolutions the other. Afterwards both are as before.
    """
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


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
        for tensor in tensors([m._parameters, m._buffers, list(vars(m).values())]):
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


@contextmanager
def meta_pass() -> Iterator[None]:
    """Inside the ``with`` forwards run on the meta device: no gradients, new tensors there too, shapes found fast."""
    with fresh_caches(), torch.no_grad(), torch.device("meta"), _ShapesOnly():
        yield


@contextmanager
def fresh_caches() -> Iterator[None]:
    """Functions that remember tensors (`functools.lru_cache`) neither give any to what runs inside nor keep its own.

    A position index that was computed on the meta device would be handed to the network itself afterwards, which
    would silently compute with numbers that are none. Calls may be nested; only the outermost searches.
    """
    is_outermost = getattr(_nesting, "depth", 0) == 0
    if is_outermost:
        caches, num_modules = _caches(), len(sys.modules)
        _forget_tensors(caches)
    _nesting.depth = getattr(_nesting, "depth", 0) + 1
    try:
        yield
    finally:
        _nesting.depth -= 1
        if is_outermost:  # the search itself takes a moment: again only where a forward has imported something
            _forget_tensors(caches if len(sys.modules) == num_modules else _caches())


_nesting = threading.local()
_Cache = type(functools.lru_cache(lambda: None))


def _caches() -> list[Any]:
    """Every `functools.lru_cache` of the process: their type refers to all of them.

    The search goes through all objects there are, so that it is done where one came or went: each refers to the type.
    """
    global _found
    num_references, caches = _found[0], [reference() for reference in _found[1]]
    if None in caches or sys.getrefcount(_Cache) != num_references:
        caches = [cache for cache in gc.get_referrers(_Cache) if isinstance(cache, _Cache)]
        _found = sys.getrefcount(_Cache), [weakref.ref(cache) for cache in caches]
    return caches


_found: tuple[int, list[weakref.ref[Any]]] = (0, [])


def _forget_tensors(caches: list[Any]) -> None:
    """Empties those that hold tensors; one that held none and has computed nothing since is not looked into again."""
    for cache in caches:
        hits, misses, *_ = cache.cache_info()
        before = _tensorless.get(cache)
        if before is not None and before[0] <= hits and before[1] == misses:  # nor was it emptied meanwhile
            continue
        held = [kept for kept in gc.get_referents(cache) if kept is not vars(cache)]
        for kept in [dict_ for dict_ in held if isinstance(dict_, dict)]:
            held += kept.values()  # of a cache without a limit
        if any(True for _ in tensors(held)):
            cache.cache_clear()
        elif sum(type(kept) in (dict, list) for kept in held) == 1:  # its own; into any other tensors may come later
            _tensorless[cache] = hits, misses


_tensorless: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()


class _ShapesOnly(TorchDispatchMode):
    """Skips the slow, exact meta kernels of some frequent operations, of which only the shape is wanted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        shape = _SHAPES.get(func)
        if shape is None or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        return shape(*args)


def _norm_shapes(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


aten = torch.ops.aten
_SHAPES = {
    aten.native_batch_norm.default: _norm_shapes,
    aten.native_layer_norm.default: _norm_shapes,
    aten.addmm.default: lambda bias, x, weight: x.new_empty(x.shape[0], weight.shape[1]),
    aten.gelu.default: lambda x, *_: torch.empty_like(x),
    aten._safe_softmax.default: lambda x, *_: torch.empty_like(x),
}
