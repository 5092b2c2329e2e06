"""A device that no machine has: tensors on it compute on the CPU, and no operation takes tensors of it and of the CPU.

What runs on it forgets no tensor on the CPU and fetches results where it says so, as on a GPU. Single numbers of the
CPU may come along, and the CPU's indices, as in torch. With ``no_float64`` it is a device without float64, as MPS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

FAKE = torch.device("ipu", 0)
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
_COMPOSED = {torch.nn.functional.one_hot, torch._C._nn.one_hot}
"""Of which torch makes parts on what it takes for the tensor's device."""
_NEW = {Tensor.new_empty, Tensor.new_full, Tensor.new_ones, Tensor.new_zeros}
_NEW_FOR_GRADIENTS = {
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten._to_copy.default,
}
"""Autograd asks for them on what it takes for the device of the tensor whose gradient they are to hold."""
_TRANSFERS = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}


class MixedDevicesError(AssertionError):
    """An operation on tensors of two devices, or on numbers that the device does not have."""


class OnFake(Tensor):
    """A tensor of the device; ``held`` is what it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnFake:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device="cpu", requires_grad=held.requires_grad
        )
        made.held = held.detach()
        return made

    @property
    def device(self) -> torch.device:
        """As the code under test sees it."""
        return FAKE

    def cpu(self) -> Tensor:
        """What it holds, also where torch asks no subclass."""
        return _move(self, "cpu")

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """See ``cpu``."""
        return _move(self, *args, **kwargs)

    def __reduce_ex__(self, protocol: int) -> Any:
        """As files of a GPU are read where there is none."""
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"OnFake({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy:
            raise MixedDevicesError("NumPy has no access to the device")
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.to, Tensor.cpu):
                return _move(*args, **kwargs) if func is Tensor.to else _move(args[0], "cpu")
            if func in _COMPOSED:
                given = tree_map(lambda x: x.held if isinstance(x, OnFake) else x, (args, kwargs))
                return OnFake(func(*given[0], **given[1]))
            if func in _NEW and kwargs.get("device") is not None and torch.device(kwargs["device"]).type != FAKE.type:
                return func(args[0].held, *args[1:], **kwargs)
            if func is Tensor.matmul and args[0].ndim == 1:  # torch would reshape the product in place
                return (args[0][None] @ args[1])[0]
            if func is torch.Tensor.device.__get__:
                return FAKE if isinstance(args[0], OnFake) else func(*args, **kwargs)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, no_float64=_state["no_float64"])


_state = {"no_float64": False}


class _Factories(TorchDispatchMode):
    """Takes what asks for the device by name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, no_float64=_state["no_float64"])


class _Literals(TorchFunctionMode):
    """Takes ``torch.tensor`` and ``as_tensor`` of numbers, which ask for memory of the device at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is Tensor.to:
            return _move(*args, **kwargs)
        if func not in (torch.tensor, torch.as_tensor) or device is None or torch.device(device).type != FAKE.type:
            return func(*args, **kwargs)
        return args[0] if isinstance(args[0], OnFake) else OnFake(func(*args, **{**kwargs, "device": "cpu"}))


def _move(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``x.to(...)``: torch itself takes the device for the CPU."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for given in args:
        if isinstance(given, Tensor):
            device, dtype = FAKE if isinstance(given, OnFake) else given.device, given.dtype
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, (str, torch.device)):
            device = given
    kind = torch.device(device).type if device is not None else None
    if dtype is not None and dtype != x.dtype:
        x = torch.ops.aten._to_copy(x, dtype=dtype)
    if kind == FAKE.type and not isinstance(x, OnFake):
        return _Send.apply(x) if x.requires_grad else OnFake(x)
    if kind == "cpu" and isinstance(x, OnFake):
        return _Fetch.apply(x) if x.requires_grad else x.held.clone()
    if kind == "meta":
        return torch.empty_like(x.held if isinstance(x, OnFake) else x, device="meta", requires_grad=x.requires_grad)
    return x


class _Send(torch.autograd.Function):
    """From the CPU to the device; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnFake(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: OnFake) -> Tensor:
        return gradient.held if isinstance(gradient, OnFake) else gradient


class _Fetch(torch.autograd.Function):
    """From the device to the CPU; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, x: OnFake) -> Tensor:
        return x.held.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return OnFake(gradient)


def _run(func: Any, args: Any, kwargs: dict[str, Any], *, no_float64: bool) -> Any:
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
    fakes = [x for x in tensors if isinstance(x, OnFake)]
    asked = kwargs.get("device")
    if asked is not None:
        asked = torch.device(asked)
        kwargs = {**kwargs, "device": torch.device("cpu") if asked.type == FAKE.type else asked}
        if fakes and func in _NEW_FOR_GRADIENTS:
            asked = FAKE
    if not fakes and (asked is None or asked.type != FAKE.type):
        return func(*args, **kwargs)
    plain = [x for x in tensors if not isinstance(x, OnFake) and x.ndim > 0]
    if func not in _INDEXING | _TRANSFERS and plain and fakes:
        raise MixedDevicesError(f"{func}: {[tuple(x.shape) for x in plain]} are on the CPU")
    if func in _INDEXING and not isinstance(args[0], OnFake):
        raise MixedDevicesError(f"{func}: indices or values of the device into a tensor of the CPU")
    given = tree_map(lambda x: x.held if isinstance(x, OnFake) else x, (args, kwargs))
    out = func(*given[0], **given[1])
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if asked is not None and asked.type != FAKE.type:
        return out
    originals = {id(x.held): x for x in fakes}

    def wrap(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if no_float64 and x.dtype == torch.float64 and x.ndim > 0:
            raise MixedDevicesError(f"{func}: the device has no float64")
        return originals.get(id(x)) if id(x) in originals else OnFake(x)

    return tree_map(wrap, out)


@contextmanager
def fake_device(*, no_float64: bool = False) -> Iterator[torch.device]:
    """Inside, the device is there."""
    _state["no_float64"] = no_float64
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Literals(), _Factories():
            yield FAKE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _state["no_float64"] = False


def is_on_fake(tensor: Tensor) -> bool:
    """Whether a tensor lies on the device."""
    return re.fullmatch("ipu(:0)?", str(tensor.device)) is not None


class _Accelerator(Accelerator):
    """What Lightning asks of a device."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [FAKE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "fake"


def strategy_on_fake() -> SingleDeviceStrategy:
    """For Lightning's trainers; without inference mode, which the tensors' making does not allow."""
    return SingleDeviceStrategy(FAKE, accelerator=_Accelerator())
