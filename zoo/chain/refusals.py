"""Networks that are refused before anything runs: what they are, and what to give instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.errors import UserError

ADVICE = "list modules that follow one another with nodes=[...], or take another network"


def require_plain(network: nn.Module, example_input: torch.Tensor, name: str) -> None:
    """Refuses (`UserError`) what is no float32 network of Python modules, with the module's name and what to do."""
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} cannot be sliced: it is a {type(network).__name__}, expected an nn.Module")
    if example_input.dtype != torch.float32:
        raise UserError(f"example_input is {_short(example_input.dtype)}, expected float32 images or vectors")
    for path, module in network.named_modules():
        where = path or "it"
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{name} cannot be sliced: {where} is TorchScript; give the Python network it was made from"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError(
                f"{name} cannot be sliced: {where} is compiled; give the network without torch.compile "
                "(network._orig_mod), and compile what is composed of it"
            )
        if ".quantized" in kind.__module__:
            raise UserError(
                f"{name} cannot be sliced: {where} is quantised ({kind.__name__}); give the network in float32, and "
                "quantise what is composed of it"
            )
        if kind.__module__.startswith("torch.export"):
            raise UserError(f"{name} cannot be sliced: it is an exported program; give the Python network")


def wrong_precision(network: nn.Module, x: torch.Tensor, name: str) -> UserError | None:
    """Says which parameter is of another precision than the example, if one is."""
    for key, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != x.dtype:
            return UserError(
                f"{name} cannot be sliced: its parameter {key} is {_short(parameter.dtype)}, but images are float32; "
                "convert the network first: network.float()"
            )
    return None


def failed_forward(network: nn.Module, x: torch.Tensor, name: str, told: str) -> UserError:
    """Why the network does not run on the example: its precision if that differs, else what it said."""
    return wrong_precision(network, x, name) or UserError(
        f"{name} cannot be sliced: its forward on {tuple(x.shape[1:])} fails without data (control flow that "
        f"depends on pixels, or another input size): {told}; {ADVICE}"
    )


def no_tensor(output: Any, name: str) -> UserError:
    """The network returns something else than one tensor; how to wrap it."""
    found, access = type(output).__name__, "[0]"
    keys = [str(key) for key in output] if hasattr(output, "keys") else []
    if keys:
        found += f" of {', '.join(keys)}"
        access = f"[{('logits' if 'logits' in keys else keys[0])!r}]"
    return UserError(
        f"{name} cannot be sliced: it does not return one tensor but a {found}; wrap it in a module that "
        f"returns the logits: def forward(self, x): return self.network(x){access}"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
