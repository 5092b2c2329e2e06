"""What a bundle tells of its network beside the recipe: what it takes, what it gives, what its networks are built by.

    format: huozi-interface/1
    input: {channels: 3, height: 224, width: 224, mean: [...], std: [...], interpolation: bicubic, crop_pct: 0.95}
    background: white
    classes: [cat, dog]
    networks: {resnet18: {source: timm, model: resnet18, ...}}

A file may come from a stranger: it is plain data, and `require_known_builder` refuses whatever would call a function
that neither timm, torchvision nor this project has.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zoo.builders import require_architecture
from zoo.converters import OURS as OUR_CONVERTERS
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.storage.records import from_plain, short_repr, to_plain

FORMAT = "huozi-interface/1"
OUR_FACTORIES = ("zoo.embedded.networks:small_image", "zoo.embedded.networks:conv_stem_vit")
_READS_FILES = ("pretrained", "checkpoint", "weights", "cache_dir", "hub", "url", "file")
_MAX_NUMBER = 2**20


@dataclass(frozen=True)
class Reading:
    """How an image becomes what a network takes, which the data may have had otherwise than the network's entry.

    Attributes:
        input: Of the network, with the interpolation and the crop that it was tuned and measured with.
        background: See ``Interface``, likewise white_level.
    """

    input: InputSpec
    background: str | int | tuple[int, int, int] = "white"
    white_level: float | None = None

    def require_fits(self, spec: InputSpec, where: str) -> None:
        """Refuses (`UserError`) one of a network that takes other images than ``spec`` says, but for the crop."""
        own = replace(spec, interpolation=self.input.interpolation, crop_pct=self.input.crop_pct)
        if self.input != replace(own, crop_mode=self.input.crop_mode):
            raise UserError(f"{where}: it reads images for {short_repr(self.input)}, and its target takes {spec}")


@dataclass(frozen=True)
class Interface:
    """A network as whoever uses it has to know it.

    Attributes:
        input: What it takes.
        classes: Names of its outputs in their order.
        background: Behind what is transparent in an image.
        white_level: What is white in images of more than 8 bits; None takes 65535 and 1.
        networks: Entries of the zoo that it was built of; empty where nothing is known of them.
    """

    input: InputSpec
    classes: tuple[str, ...]
    background: str | int | tuple[int, int, int] = "white"
    white_level: float | None = None
    networks: Mapping[str, ZooEntry] | None = None

    @property
    def reading(self) -> Reading:
        """What of it concerns images."""
        return Reading(self.input, self.background, self.white_level)


def interface_to_plain(interface: Interface) -> dict[str, Any]:
    """Plain data for `interface.yaml`; of the entries what builds the network and where its weights are from."""
    plain = to_plain(replace(interface, networks=None))
    if interface.networks is not None:
        plain["networks"] = {name: _entry_to_plain(entry) for name, entry in interface.networks.items()}
    return {"format": FORMAT, **plain}


def interface_from_plain(plain: Mapping[str, Any], where: str) -> Interface:
    """Read strictly.

    Raises:
        UserError: One line with the place: another format, an unknown or missing field, a value that cannot be.
    """
    fields = dict(plain)
    if (version := fields.pop("format", None)) != FORMAT:
        raise UserError(f"{where}: format {short_repr(version)} is not supported; expected {FORMAT}")
    networks = fields.pop("networks", None)
    interface = from_plain(Interface, fields, where)
    if networks is None:
        return interface
    if not isinstance(networks, Mapping):
        raise UserError(f"{where}: networks: got {short_repr(networks)}, expected a mapping of names")
    entries = {str(name): _entry_from_plain(str(name), entry, where) for name, entry in networks.items()}
    return replace(interface, networks=entries)


def require_known_builder(entry: ZooEntry, where: str) -> None:
    """Refuse an entry of a stranger's file that would call a function of others, or read files, when it is built.

    Known are the architectures of timm and torchvision by name, their modules' own network classes, and the factories
    of the embedded zoo.

    Raises:
        UserError: One line that says which option lets the user's own zoo build it.
    """
    model = entry.model
    if entry.source in OUR_FACTORIES:
        model = entry.kwargs.get("model", "") if "small_image" in entry.source else ""
    elif entry.source not in ("timm", "torchvision") and not _is_network_class(entry.source):
        raise UserError(
            f"{where}: network {entry.name!r} is built by {entry.source}, a function that this file alone names: give "
            "your own zoo that has the network (--zoo NAME_OR_FILE, or zoo=...), if you trust it"
        )
    convert = entry.weights.convert if entry.weights is not None else None
    if convert is not None and convert not in OUR_CONVERTERS:
        raise UserError(
            f"{where}: weights of network {entry.name!r} are converted by {convert}, a function that this file alone "
            "names: give your own zoo that has the network (--zoo NAME_OR_FILE, or zoo=...), if you trust it"
        )
    if model:
        require_architecture("torchvision" if entry.source == "torchvision" else "timm", str(model), entry.name)
    for key, value in _leaves(entry.kwargs):
        if any(word in key.lower() for word in _READS_FILES):
            raise UserError(f"{where}: network {entry.name!r}: kwargs.{key} is not taken from a file of others")
        if isinstance(value, (int, float)) and not abs(value) <= _MAX_NUMBER:
            raise UserError(f"{where}: network {entry.name!r}: kwargs.{key} is {short_repr(value)}, too large")


def _is_network_class(source: str) -> bool:
    module, _, name = source.partition(":")
    if not module.startswith(("timm.models.", "torchvision.models.")) or not name.isidentifier():
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value


def _entry_to_plain(entry: ZooEntry) -> dict[str, Any]:
    plain = to_plain(entry)
    return {key: plain[key] for key in _ENTRY if plain.get(key) not in (None, "", [], {})}


def _entry_from_plain(name: str, plain: Any, where: str) -> ZooEntry:
    if not isinstance(plain, Mapping):
        raise UserError(f"{where}: networks.{name}: got {short_repr(plain)}, expected a mapping of fields")
    kwargs = plain.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise UserError(f"{where}: networks.{name}.kwargs: got {short_repr(kwargs)}, expected a mapping of arguments")
    entry = from_plain(ZooEntry, {**plain, "name": name, "kwargs": {}}, f"{where}: networks.{name}")
    return replace(entry, kwargs=dict(kwargs))


_ENTRY = ("source", "model", "kwargs", "input", "weights", "classes", "nodes", "description", "license")
