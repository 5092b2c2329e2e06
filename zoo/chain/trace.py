"""Recording the glue of a network, step by step, without entering its atomic modules.

Built on the recording proxies of `torch.fx`. Every proxy also carries its value on the meta device, so that
control flow on sizes can be followed: the way taken is noted as a guard, which refuses, when the steps run, an input
for which the network itself would have taken another.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from zoo.chain import program
from zoo.chain.merge import ROOT, Untraceable, merge
from zoo.chain.modes import meta_pass
from zoo.chain.program import Program, get_attribute
from zoo.errors import FOREIGN_FAULTS, UserError

IsAtomic = Callable[[str, nn.Module], bool]
FACTORIES = ("arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros")
RECORDERS = (os.path.dirname(fx.__file__), __file__, program.__file__)
ONE_AT_A_TIME = threading.RLock()  # recording patches names that all threads see, though only its own is recorded


class GuardError(UserError):
    """A forward would go another way than the one that was recorded."""


def require(value: Any, expected: Any) -> None:
    """A guard: what the control flow was decided by when the network was sliced must not change."""
    if value != expected:
        raise GuardError(
            f"this block was sliced for inputs of another size (a size, or a condition on one, is {value}, was "
            f"{expected}): resize the input, or slice the network with an example input of this size"
        )


def trace(network: nn.Module, is_atomic: IsAtomic, x: torch.Tensor) -> Program:
    """Record the forward as steps, with the atomic modules as single steps.

    Args:
        network: On the meta device, in evaluation mode.
        is_atomic: Whether the module with this qualified name is not entered.
        x: Input on the meta device.

    Raises:
        Untraceable: the forward cannot be recorded, or takes another way in training mode; further outputs after the
            first one that it gives there (of auxiliary classifiers) are left out.
    """
    entered = [module for path, module in network.named_modules() if not path or not is_atomic(path, module)]
    graphs = []
    memory: dict[str, Any] = {}
    for training in (True, False):
        for module in entered:
            module.training = training
        graphs.append(_record(network, is_atomic, x, memory, _namespaces(entered)))
    return merge(graphs[1], graphs[0])


def _namespaces(modules: list[nn.Module]) -> list[dict]:
    """The global variables that the methods of these modules see, those of torch itself left out."""
    functions = [
        function
        for kind in {kind for module in modules for kind in type(module).__mro__}
        if not kind.__module__.startswith("torch.")
        for function in vars(kind).values()
        if inspect.isfunction(function)
    ]
    return list({id(function.__globals__): function.__globals__ for function in functions}.values())


def _record(
    network: nn.Module, is_atomic: IsAtomic, x: torch.Tensor, memory: dict[str, Any], namespaces: list[dict]
) -> fx.Graph:
    wrapped: dict[tuple[int, str], tuple[dict, Callable]] = {}
    while True:
        tracer = _Tracer(is_atomic, x, wrapped, memory)
        try:
            with ONE_AT_A_TIME, tracer.patched_functions(namespaces):
                return tracer.trace(_Root(network, tracer))
        except _Retry:
            continue
        except (UserError, Untraceable):
            raise
        except FOREIGN_FAULTS as error:
            raise Untraceable(_describe(error)) from error


def _describe(error: Exception) -> str:
    """What went wrong and in which line of the network's code, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*RECORDERS, os.path.dirname(torch.__file__)))]
    reason = (str(error).strip() or "no message").splitlines()[0]
    place = f" in {own[-1].name} ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{place}: {reason}"


class _Root(nn.Module):
    """Calls the network with one argument, so that its other arguments keep their defaults."""

    def __init__(self, network: nn.Module, tracer: _Tracer) -> None:
        super().__init__()
        self.network = network
        self.tracer = tracer

    def forward(self, x):
        self.tracer.images = x
        self.tracer.leave_other_threads_alone()
        return self.network(x)


class _Retry(Exception):
    """A function with control flow was found; trace again with it as one step."""


class _Concrete:
    """What fx proxies refuse and a known value can answer."""

    def __len__(self) -> int:
        return len(self.tracer.value(self))

    def __int__(self) -> int:
        return self.tracer.decide(self, int)

    def __float__(self) -> float:
        return self.tracer.decide(self, float)


class _Proxy(_Concrete, fx.Proxy):
    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)


class _Attribute(_Concrete, fx.proxy.Attribute):
    def __init__(self, root: fx.Proxy, name: str) -> None:
        super().__init__(root, name)
        self.root = self.tracer.owner(root, name)

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, is_atomic: IsAtomic, x: torch.Tensor, wrapped: dict, memory: dict[str, Any]) -> None:
        super().__init__()
        self.memory = memory
        self.is_atomic = is_atomic
        self.example = x
        self.wrapped = wrapped
        self.values: dict[fx.Node, Any] = {}
        self.evaluating = False
        self.thread = threading.get_ident()

    # What is a step.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        path = module_qualified_name.removeprefix(ROOT).removeprefix(".")
        return path != "" and self.is_atomic(path, m)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call_module(m, forward, args, kwargs) if self.is_recording else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
        return super().getattr(attr, attr_val, parameter_proxy_cache) if self.is_recording else attr_val

    @property
    def is_recording(self) -> bool:
        """Whether what runs now is the forward itself: not the value of a step, and not another thread."""
        return not self.evaluating and threading.get_ident() == self.thread

    def leave_other_threads_alone(self) -> None:
        """Let the methods of modules that fx has just replaced, until it puts them back, be so in this thread alone."""
        for name, original in (
            ("__call__", fx._symbolic_trace._orig_module_call),
            ("__getattr__", fx._symbolic_trace._orig_module_getattr),
        ):
            setattr(nn.Module, name, self._in_this_thread(getattr(nn.Module, name), original))

    def _in_this_thread(self, recording: Callable, original: Callable) -> Callable:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return (recording if threading.get_ident() == self.thread else original)(*args, **kwargs)

        return method

    @contextmanager
    def patched_functions(self, namespaces: list[dict]) -> Iterator[None]:
        """Make tensor factories, and functions found to hold control flow, single steps; let built-ins see values.

        In other threads, whose values are no proxies, all of them do what they did.
        """
        replacements = [(vars(torch), name, self._as_step(getattr(torch, name))) for name in FACTORIES]
        for namespace in namespaces:
            for name, function in (("len", self._len), ("range", self._range), ("isinstance", self._isinstance)):
                if name not in namespace:
                    replacements.append((namespace, name, function))
        for (_, name), (namespace, function) in self.wrapped.items():
            replacements.append((namespace, name, self._as_step(function)))
        missing = object()
        originals = [(namespace, name, namespace.get(name, missing)) for namespace, name, _ in replacements]
        try:
            for namespace, name, function in replacements:
                namespace[name] = function
            yield
        finally:
            for namespace, name, original in originals:
                if original is missing:
                    del namespace[name]
                else:
                    namespace[name] = original

    def _as_step(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def record(*args: Any, **kwargs: Any) -> Any:
            if not self.is_recording:
                return function(*args, **kwargs)
            return self.create_proxy("call_function", function, args, kwargs)

        return record

    def _len(self, x: Any) -> Any:
        if isinstance(x, fx.Proxy) and isinstance(self.value(x), torch.Tensor):
            return self.create_proxy("call_method", "size", (x, 0), {})  # len() is a plain number when exported
        return len(x)

    def _range(self, *bounds: Any) -> range:
        return range(*(int(bound) if isinstance(bound, fx.Proxy) else bound for bound in bounds))

    def _isinstance(self, x: Any, kinds: Any) -> bool:
        return isinstance(self.value(x) if isinstance(x, fx.Proxy) else x, kinds)

    # Values.

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: tuple, kwargs: dict, *rest: Any, **options: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        self.values[proxy.node] = self._evaluate(proxy.node)
        return proxy

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value_of)
        self.evaluating = True
        try:
            with meta_pass():
                if node.op == "placeholder":
                    return self.example
                if node.op == "get_attr":
                    return get_attribute(self.root, node.target)
                if node.op == "call_module":
                    return self._call(node.target, tuple(map(_unfrozen, args)), kwargs)
                if node.op == "call_method":
                    return getattr(args[0], node.target)(*args[1:], **kwargs)
                return node.target(*args, **kwargs)
        finally:
            self.evaluating = False

    def _value_of(self, node: fx.Node) -> Any:
        if node not in self.values:
            self.values[node] = self._evaluate(node)
        return self.values[node]

    def _call(self, path: str, args: tuple, kwargs: dict) -> Any:
        """Call an atomic module; its value at the same inputs is known from an earlier attempt."""
        shapes = [getattr(argument, "shape", argument) for argument in tree_leaves((args, kwargs))]
        key = f"{path} {shapes}"
        if key not in self.memory:
            self.memory[key] = self.root.get_submodule(path)(*args, **kwargs)
        return self.memory[key]

    def owner(self, proxy: fx.Proxy, attribute: str) -> fx.Proxy:
        """The network's input where only the device, or the same type, of a parameter is asked for.

        Else `x.to(self.head.weight.device)` would tie the head's parameter to the stem.
        """
        is_same = attribute == "device" or (attribute == "dtype" and self.value(proxy).dtype == self.example.dtype)
        return self.images if is_same and proxy.node.op == "get_attr" else proxy

    def value(self, proxy: fx.Proxy) -> Any:
        return self._value_of(proxy.node)

    # Control flow.

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self.decide(obj, bool)

    def iter(self, obj: fx.Proxy) -> Iterator:
        return iter([obj[index] for index in range(len(self.value(obj)))])

    def keys(self, obj: fx.Proxy) -> Any:
        return self.value(obj).keys()

    def decide(self, proxy: fx.Proxy, convert: type) -> Any:
        """Let the value decide; inside a plain function make that function one step instead."""
        function = _plain_function_on_stack()
        if function is not None and (id(function[0]), function[1].__name__) not in self.wrapped:
            self.wrapped[id(function[0]), function[1].__name__] = function
            raise _Retry
        value = convert(self.value(proxy))
        self.create_node("call_function", require, (proxy.node, self.value(proxy)), {})
        return value


def _unfrozen(argument: Any) -> Any:
    """fx keeps lists immutable; modules may write into the lists they are given."""
    return list(argument) if isinstance(argument, list) else argument


def _plain_function_on_stack() -> tuple[dict, Callable] | None:
    """The outermost function below the innermost module method, as its caller's namespace and itself."""
    frame = sys._getframe(2)
    callee = None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            break
        if not frame.f_code.co_filename.startswith(RECORDERS):
            callee = frame
        frame = frame.f_back
    if frame is None or callee is None or callee.f_back is None:
        return None
    namespace = callee.f_back.f_globals
    for candidate in namespace.values():
        if getattr(candidate, "__code__", None) is callee.f_code:
            return namespace, candidate
    return None
