"""Freezing: what is not trained keeps its parameters *and* its statistics, whatever calls ``train()`` later."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def trainable_submodules(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """The given modules and everything inside them."""
    return {submodule for module in modules for submodule in module.modules()}


def set_trainable(network: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Lets gradients reach the floating-point parameters of ``modules`` and no other parameter of the network."""
    trained = {id(parameter) for module in modules for parameter in module.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained and parameter.is_floating_point())


def keep_frozen_in_eval(network: nn.Module, modules: Iterable[nn.Module], *, norm_stats: str) -> None:
    """Puts back into eval every submodule that is not trained (normalisation statistics, dropout, stochastic depth).

    ``requires_grad = False`` alone lets BatchNorm statistics drift, and one ``eval()`` is undone by the next
    ``train()`` of the training loop. A container of something trained keeps its mode; with ``norm_stats="frozen"``
    the normalisations of the trained part keep their statistics too, while their affine parameters learn.
    """
    trained = trainable_submodules(modules)
    for module in network.modules():
        frozen = trained.isdisjoint(module.modules())
        if frozen or (norm_stats == "frozen" and has_running_statistics(module)):
            module.training = False


def has_running_statistics(module: nn.Module) -> bool:
    """Whether the module normalises with statistics that its training mode updates (BatchNorm and its kin)."""
    return getattr(module, "running_mean", None) is not None
