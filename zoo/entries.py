"""What a zoo knows about a network, and the way from there to the network and its chain."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import timm
import torch
import torchvision
from torch import Tensor, nn

from zoo.chain import Chain
from zoo.errors import UserError
from zoo.weights import Weights, load_file


@dataclass(frozen=True)
class InputSpec:
    """The images a network takes: float32 (N, channels, height, width), in [0, 1] before `(x - mean) / std`."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise UserError(f"input: {self.channels} x {self.height} x {self.width} pixels, expected at least 1 each")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(f"input.{name}: got {len(values)} values for {self.channels} channels")
        if min(self.std) <= 0:
            raise UserError(f"input.std: got {min(self.std)}, expected values above 0")

    def example(self, batch: int = 1) -> Tensor:
        """Zeros of the shape the network takes."""
        return torch.zeros(batch, self.channels, self.height, self.width)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent on the network's own task: of the weights given, and the range over training seeds."""

    given: float
    lowest: float
    highest: float
    num_seeds: int


@dataclass(frozen=True)
class ZooEntry:
    """One network of a zoo.

    Attributes:
        name: Its name in the zoo.
        source: `timm`, `torchvision`, or `module:factory` of a function that returns the network.
        input: What it takes.
        model: Name of the architecture, where the source is timm or torchvision.
        kwargs: Passed to the source.
        weights: None leaves random weights, drawn from the name.
        classes: Names of its outputs in their order; empty if nothing depends on them.
        nodes: Qualified names of the modules that become nodes, for a network whose chain cannot be derived.
        description: What it was trained on, for tables.
        accuracy: What the weights reach.
        command: What makes the weights.
    """

    name: str
    source: str
    input: InputSpec
    model: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    classes: tuple[str, ...] = ()
    nodes: tuple[str, ...] | None = None
    description: str = ""
    accuracy: Accuracy | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if self.source in ("timm", "torchvision"):
            if not self.model:
                raise UserError(f"{self.name}: source {self.source} needs `model`, the name of the architecture")
        else:
            module, _, factory = self.source.partition(":")
            if not (module and factory):
                raise UserError(f"{self.name}: source {self.source!r}, expected timm, torchvision or module:factory")
            if self.model:
                raise UserError(
                    f"{self.name}: `model` belongs to timm and torchvision; give {self.source} its `kwargs`"
                )
            if self.weights is not None and self.weights.hub:
                raise UserError(f"{self.name}: {self.source} has no hub; give weights.file")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise UserError(f"{self.name}: classes given twice: {', '.join(repeated)}")


def load_network(entry: ZooEntry) -> nn.Module:
    """The network of an entry: in eval mode, on the CPU, with its weights loaded and checked.

    Raises:
        UserError: Unknown architecture or factory, arguments it refuses, weights that cannot be had or do not fit.
    """
    hub = entry.weights.hub if entry.weights is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hashlib.sha256(entry.name.encode()).hexdigest()[:8], 16))
        network = _BUILDERS.get(entry.source, _from_factory)(entry, hub)
    if not isinstance(network, nn.Module):
        raise UserError(f"{entry.name}: {entry.source} returned a {type(network).__name__}, expected an nn.Module")
    if entry.weights is not None and entry.weights.file is not None:
        load_file(network, entry.weights, entry.name)
    return network.cpu().eval()


def load_chain(entry: ZooEntry) -> Chain:
    """The chain of an entry's network; refusals as in `load_network` and `Chain.from_network`."""
    return Chain.from_network(load_network(entry), entry.input.example(), name=entry.name, nodes=entry.nodes)


def require_architecture(source: str, model: str, name: str) -> None:
    """Refuses (`UserError`) an architecture, or a tag after its dot, that the installed timm or torchvision lacks."""
    known = timm.list_models() if source == "timm" else torchvision.models.list_models(module=torchvision.models)
    if model.partition(".")[0] not in known:
        near = difflib.get_close_matches(model, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"{name}: {source} has no model {model!r}{hint}")
    architecture, dot, tag = model.partition(".")
    if dot and tag not in _tags(architecture):
        tags = ", ".join(_tags(architecture)) or "none"
        raise UserError(f"{name}: {source} has no weights {tag!r} of {architecture}; it has: {tags}")


def _tags(architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]


def _from_timm(entry: ZooEntry, hub: str | bool | None) -> nn.Module:
    name = f"{entry.model.partition('.')[0]}.{hub}" if isinstance(hub, str) else entry.model
    require_architecture("timm", name, entry.name)
    if not hub:
        return _build(entry, lambda: timm.create_model(name, **entry.kwargs))
    url = f"https://huggingface.co/{timm.get_pretrained_cfg(name).hf_hub_id}"
    return _download(entry, lambda: timm.create_model(name, pretrained=True, **entry.kwargs), url)


def _from_torchvision(entry: ZooEntry, hub: str | bool | None) -> nn.Module:
    require_architecture("torchvision", entry.model, entry.name)
    if not hub:
        return _build(entry, lambda: torchvision.models.get_model(entry.model, **entry.kwargs))
    published = torchvision.models.get_model_weights(entry.model).__members__
    tag = "DEFAULT" if hub is True else hub
    if tag not in published:
        raise UserError(
            f"{entry.name}: torchvision has no weights {tag!r} of {entry.model}; it has: {', '.join(published)}"
        )
    weights = published[tag]
    build = partial(torchvision.models.get_model, entry.model, weights=weights, **entry.kwargs)
    return _download(entry, build, weights.url)


def _from_factory(entry: ZooEntry, hub: None) -> nn.Module:
    module_name, _, factory_name = entry.source.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{entry.name}: source {entry.source} cannot be imported: {error}") from error
    return _build(entry, lambda: factory(**entry.kwargs))


_BUILDERS = {"timm": _from_timm, "torchvision": _from_torchvision}
_REFUSALS = (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError)


def _build(entry: ZooEntry, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except _REFUSALS as error:
        given = ", ".join(f"{key}={value!r}" for key, value in entry.kwargs.items()) or "none"
        raise UserError(f"{entry.name}: {_origin(entry)} refuses kwargs ({given}): {_reason(error)}") from error


def _download(entry: ZooEntry, build: Callable[[], nn.Module], url: str) -> nn.Module:
    try:
        return build()
    except (OSError, *_REFUSALS) as error:
        raise UserError(
            f"{entry.name}: the weights of {_origin(entry)} could not be had ({_reason(error)}); "
            f"download them from {url} and set weights: {{file: PATH}}"
        ) from error


def _origin(entry: ZooEntry) -> str:
    return f"{entry.source} {entry.model}".strip()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text if len(text) <= 160 else text[:157] + '...'}"
