"""Making the small network of a plan: slices of weights, and at the sites modules that pick channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloning.gates import GateSite
from cloning.slimming.plan import LayerCut, Plan
from cloning.slimming.units import CONVOLUTIONS


class Rewire(nn.Module):
    """Hands on some channels of a tensor and makes zeros of others.

    Args:
        source: (channels behind,) index of each in the channels in front; -1 for zeros.
        axis: Of the channels, 1 or -1.
    """

    def __init__(self, source: Tensor, axis: int) -> None:
        super().__init__()
        self.axis, self.has_zeros = axis, bool((source < 0).any())
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        source = self.source
        if self.has_zeros:
            source = torch.where(source < 0, x.shape[self.axis], source)
            x = F.pad(x, [0, 1] if self.axis == -1 else [0, 0] * (x.ndim - 2) + [0, 1])
        return x.index_select(self.axis, source)


@torch.no_grad()
def cut(network: nn.Module, plan: Plan, sites: Sequence[GateSite]) -> None:
    """Cuts a network of its own (a deep copy) in place; its parameters are replaced by slices of them."""
    modules = dict(network.named_modules())
    for path, layer in plan.layers.items():
        if path in modules:
            _cut_layer(modules[path], layer)
    owners: dict[nn.Module, int] = {}
    for path, (dim, kept) in plan.parameters.items():
        owner, name = _owner(network, path)
        if owner is not None:
            _replace(owner, name, getattr(owner, name).index_select(dim, kept.nonzero().flatten()))
            owners[owner] = int(kept.sum())
    for module, num_channels in owners.items():
        if hasattr(module, "num_features"):
            module.num_features = num_channels
    for index, found in plan.sites.items():
        site = sites[index]
        if site.path not in modules:
            continue
        if site.side == "input" and found.heads < site.num_gates:
            _cut_heads(modules, site, found.heads)
        if not found.is_identity:
            module, rewire = modules[site.path], Rewire(found.source, site.axis)
            pair = (module, rewire) if site.side == "output" else (rewire, module)
            for path, other in list(network.named_modules(remove_duplicate=False)):
                if other is module:
                    network.set_submodule(path, nn.Sequential(*pair))


def _cut_layer(module: nn.Module, layer: LayerCut) -> None:
    outputs = layer.outputs.nonzero().flatten()
    weight = module.weight[outputs]
    num_groups = len(layer.groups)
    if num_groups > 1:
        by_group = layer.inputs.view(num_groups, -1)
        group_of = torch.arange(num_groups).repeat_interleave(len(layer.outputs) // num_groups)[outputs]
        if weight.shape[1] > 1:
            places = [by_group[group].nonzero().flatten() for group in group_of.tolist()]
            weight = torch.stack([row[place] for row, place in zip(weight, places, strict=True)])
        module.groups = int(layer.groups.sum())
    elif not layer.inputs.all():
        weight = weight[:, layer.inputs]
    _replace(module, "weight", weight)
    if module.bias is not None:
        _replace(module, "bias", module.bias[outputs])
    names = ("in_channels", "out_channels") if isinstance(module, CONVOLUTIONS) else ("in_features", "out_features")
    for name, kept in zip(names, (layer.inputs, layer.outputs), strict=True):
        setattr(module, name, int(kept.sum()))


def _cut_heads(modules: dict[str, nn.Module], site: GateSite, heads: int) -> None:
    """Tells the attention module how many heads are left, and how wide they are together."""
    path = site.path
    while path:
        path = path.rpartition(".")[0]
        module = modules.get(path)
        if isinstance(getattr(module, "num_heads", None), int) and module.num_heads == site.num_gates:
            module.num_heads = heads
            for name, value in list(vars(module).items()):
                if name.endswith("_dim") and type(value) is int and value == site.num_gates * site.group_size:
                    setattr(module, name, heads * site.group_size)
            return


def _owner(network: nn.Module, path: str) -> tuple[nn.Module | None, str]:
    parent, _, name = path.rpartition(".")
    try:
        return network.get_submodule(parent), name
    except AttributeError:
        return None, name


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    value = value.detach().clone(memory_format=torch.preserve_format)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[name] = value
