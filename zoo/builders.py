"""Architectures of timm, torchvision and factories, and the weights published for them."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import random
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from zoo.entries import ZooEntry
from zoo.errors import FOREIGN_FAULTS, UserError, reason
from zoo.storage.records import short_repr

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

Result = TypeVar("Result")

_PROBE_TIMEOUT_SECONDS = 5
_SIZE_ARGUMENTS = {"vit_": "image_size", "maxvit_": "input_size"}  # of torchvision; its other networks take any size


def build(entry: ZooEntry, *, published: bool) -> nn.Module:
    """The network of an entry on the default device; with the weights of `weights.hub` where `published`.

    A network whose number of channels or size of images is fixed at its making gets those of `entry.input`.

    Raises:
        UserError: Unknown architecture or factory, arguments it refuses, published weights that cannot be had.
    """
    if entry.source == "timm":
        network = _from_timm(entry, published)
    elif entry.source == "torchvision":
        network = _from_torchvision(entry, published)
    else:
        network = _from_factory(entry)
    if not isinstance(network, nn.Module):
        raise UserError(f"{entry.name}: {entry.source} returned a {type(network).__name__}, expected an nn.Module")
    return network


def require_size(entry: ZooEntry) -> None:
    """Refuses (`UserError`) images of a size that the architecture cannot be built for; nothing is computed."""
    size = f"{entry.input.height} x {entry.input.width}"
    if size_arguments(entry):
        with torch.device("meta"), torch.no_grad():
            network = build(entry, published=False).eval()
            _attempt(entry, f"images of {size}", lambda: network(entry.input.example()))


def require_architecture(source: str, model: str, name: str) -> None:
    """Refuses (`UserError`) an architecture, or a tag after its dot, that the installed timm or torchvision lacks."""
    known = architectures(source)
    architecture, dot, tag = model.partition(".")
    if architecture not in known:
        near = difflib.get_close_matches(model, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"{name}: {source} has no model {model!r}{hint}")
    if dot and tag not in (tags := tags_of(source, architecture)):
        raise UserError(
            f"{name}: {source} has no weights {tag!r} of {architecture}; it has: {', '.join(tags) or 'none'}"
        )


def tagged(model: str, hub: str | bool | None) -> str:
    """`ARCHITECTURE.TAG` where the hub's tag is given, as timm writes it."""
    return f"{model.partition('.')[0]}.{hub}" if isinstance(hub, str) else model


def size_arguments(entry: ZooEntry) -> dict[str, Any]:
    """What a builder has to be told so that its network takes images of `entry.input`; empty where it takes any size.

    Raises:
        UserError: `kwargs` ask for another size.
    """
    size = (entry.input.height, entry.input.width)
    if entry.source == "torchvision":
        import torchvision  # heavy, as timm is: a zoo of factories needs neither

        argument = next((name for prefix, name in _SIZE_ARGUMENTS.items() if entry.model.startswith(prefix)), None)
        (side,) = torchvision.models.get_model_weights(entry.model).DEFAULT.transforms().crop_size
        if argument is None or argument in entry.kwargs or size == (side, side):
            return {}
        told = f"{entry.name}: {entry.model} of torchvision"
        if entry.hub:
            raise UserError(
                f"{told} has weights for {side} x {side} alone, not {size[0]} x {size[1]}; timm resamples its"
            )
        if argument == "image_size" and size[0] != size[1]:
            raise UserError(f"{told} takes square images, not {size[0]} x {size[1]}")
        return {argument: size[0] if argument == "image_size" else size}
    if entry.source != "timm":
        return {}
    import timm

    config = timm.get_pretrained_cfg(tagged(entry.model, entry.hub))
    free = entry.kwargs.get("dynamic_img_size") or entry.kwargs.get("strict_img_size") is False
    if config is None or not config.fixed_input_size or free:
        return {}
    given = entry.kwargs.get("img_size")
    if given is not None and (tuple(given) if isinstance(given, (list, tuple)) else (given, given)) != size:
        raise UserError(
            f"{entry.name}: kwargs.img_size is {given}, but input is {size[0]} x {size[1]}; leave kwargs.img_size out"
        )
    return {} if given is not None or size == config.input_size[1:] else {"img_size": size}


@cache
def architectures(source: str) -> list[str]:
    if source == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)


@cache
def tags_of(source: str, architecture: str) -> list[str]:
    if source == "timm":
        import timm

        return [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    from torchvision import models

    return list(models.get_model_weights(architecture).__members__)


def _from_timm(entry: ZooEntry, published: bool) -> nn.Module:
    import huggingface_hub
    import timm

    name = tagged(entry.model, entry.hub)
    require_architecture("timm", name, entry.name)
    config = timm.get_pretrained_cfg(name)
    kwargs = {**entry.kwargs, **size_arguments(entry)}
    channels = config.input_size[0] if config is not None else 3
    if entry.input.channels != kwargs.get("in_chans", channels):
        if "in_chans" in kwargs:
            told = f"kwargs.in_chans is {kwargs['in_chans']}, but input.channels {entry.input.channels}"
            raise UserError(f"{entry.name}: {told}; leave kwargs.in_chans out")
        kwargs["in_chans"] = entry.input.channels
    if not (published and entry.hub):
        return _attempt(entry, _arguments(kwargs), lambda: timm.create_model(name, **kwargs))
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"{entry.name}: timm publishes no weights of {name}; leave weights out or set weights.file")
    cached = _cached(config)
    if cached is not None:
        kwargs["pretrained_cfg_overlay"] = {"file": cached}  # else the hub is asked whether the file has changed
    else:
        page = f"{huggingface_hub.constants.ENDPOINT}/{config.hf_hub_id}" if config.hf_hub_id else config.url
        _require_reachable(entry, page, offline=huggingface_hub.constants.HF_HUB_OFFLINE)
    return _attempt(entry, _arguments(kwargs), lambda: timm.create_model(name, pretrained=True, **kwargs))


def _from_torchvision(entry: ZooEntry, published: bool) -> nn.Module:
    import torchvision

    require_architecture("torchvision", tagged(entry.model, entry.hub), entry.name)
    if entry.input.channels != 3:
        told = f"networks of torchvision take 3 channels, but input.channels is {entry.input.channels}"
        raise UserError(f"{entry.name}: {told}; take one of timm, which are adapted")
    kwargs = {**entry.kwargs, **size_arguments(entry)}
    weights = None
    if published and entry.hub:
        weights = torchvision.models.get_model_weights(entry.model)["DEFAULT" if entry.hub is True else entry.hub]
        if not Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name).exists():
            _require_reachable(entry, weights.url)
    make = partial(torchvision.models.get_model, entry.model, weights=weights, **kwargs)
    return _attempt(entry, _arguments(kwargs), make)


def _from_factory(entry: ZooEntry) -> nn.Module:
    module_name, _, factory_name = entry.source.partition(":")
    try:
        with seeded(module_name):
            factory = getattr(importlib.import_module(module_name), factory_name)
    except FOREIGN_FAULTS as error:
        raise UserError(f"{entry.name}: source {entry.source} cannot be imported: {reason(error)}") from error
    with seeded(entry.name):  # anew: what the import drew, it drew in the first call alone
        network = _attempt(entry, _arguments(entry.kwargs), lambda: factory(**entry.kwargs))
    if isinstance(network, nn.Module):
        if network in _given:
            raise UserError(
                f"{entry.name}: {entry.source} returned the same module again, whose weights another network "
                "of the zoo would share; make a new one in every call"
            )
        _given.add(network)
    return network


_given: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Inside the ``with`` all global generators start from the name; afterwards they, and what torch makes by default,
    are as before, whatever foreign code did to them."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    before = random.getstate(), np.random.get_state(), torch.get_default_dtype(), torch.is_grad_enabled()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_default_dtype(before[2])
            torch.set_grad_enabled(before[3])


def _attempt(entry: ZooEntry, what: str, action: Callable[[], Result]) -> Result:
    try:
        return action()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{entry.name}: {_origin(entry)} could not be had: {reason(error)}") from error
    except FOREIGN_FAULTS as error:
        raise UserError(f"{entry.name}: {_origin(entry)} refuses {what}: {reason(error)}") from error


def _cached(config: PretrainedCfg) -> str | None:
    """The file of published weights that an earlier download left in the hub's cache."""
    import huggingface_hub

    if not config.hf_hub_id or config.custom_load:
        return None
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = [huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name) for name in names]
    return next((path for path in found if isinstance(path, str)), None)


def _require_reachable(entry: ZooEntry, address: str, *, offline: bool = False) -> None:
    """Asks for an address once: the hub's own retries take most of a minute before they give up."""
    told = "HF_HUB_OFFLINE is set" if offline else ""
    if not offline:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_SECONDS).close()
        except urllib.error.HTTPError as answer:
            answer.close()  # a server is there; what it refuses, the download will tell
        except OSError as error:
            told = reason(error)
    if told:
        raise UserError(
            f"{entry.name}: weights.hub={entry.hub} of {_origin(entry)} could not be had ({told}); download them "
            f"from {address} and set weights: {{file: PATH}}"
        )


def _arguments(kwargs: Mapping[str, Any]) -> str:
    return f"kwargs ({', '.join(f'{key}={short_repr(value)}' for key, value in kwargs.items()) or 'none'})"


def _origin(entry: ZooEntry) -> str:
    return f"{entry.source} {entry.model}".strip()
