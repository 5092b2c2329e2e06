"""Zoos by name: YAML files of entries, and entries spelt out in one word."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from zoo.builders import require_architecture, require_size, tagged
from zoo.class_lists import class_list
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.limits import one_of, require
from zoo.patterns import expand, is_pattern, read_pattern
from zoo.preprocessing import stored_input
from zoo.storage.files import read_yaml
from zoo.storage.records import from_plain, neighbours, short_repr, to_plain
from zoo.weights import Weights, require_file


class Zoo(Mapping[str, ZooEntry]):
    """Entries by name, in the order they were given.

    Args:
        name: Of the zoo.
        entries: Its networks.
        left_out: Names of networks that were left out, and why.
        leave_out: Which of them the others go on without: none (`never`), those whose files are not there (`missing`),
            or those, too, that cannot be had or built, are no chain, or too short a one (`unfit`).
    """

    def __init__(
        self,
        name: str,
        entries: Iterable[ZooEntry],
        left_out: Mapping[str, str] | None = None,
        *,
        leave_out: str = "never",
    ) -> None:
        self.name, self.leave_out, self.left_out = name, leave_out, dict(left_out or {})
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> ZooEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> ZooEntry:
        """The entry of that name; a name the zoo lacks is a `UserError` that lists what it has."""
        if name not in self._entries:
            if name in self.left_out:
                raise UserError(f"zoo {self.name}: network {name!r} is left out: {self.left_out[name]}")
            told = f"{neighbours(name, self)}; or give the zoo that has it (zoo=NAME, --zoo NAME_OR_FILE)"
            raise UserError(f"zoo {self.name} has no network {name!r}: {told}")
        return self._entries[name]

    def without(self, left_out: Mapping[str, str]) -> Zoo:
        """The zoo without some of its networks.

        Args:
            left_out: Their names, and why.

        Raises:
            UserError: No network would be left.
        """
        if len(left_out) == len(self) and left_out:
            reasons = "; ".join(f"{name}: {told}" for name, told in list(left_out.items())[:3])
            more = f" (+{len(left_out) - 3} more)" if len(left_out) > 3 else ""
            raise UserError(f"zoo {self.name}: every network would be left out: {reasons}{more}")
        kept = (entry for name, entry in self.items() if name not in left_out)
        return Zoo(self.name, kept, {**self.left_out, **left_out}, leave_out=self.leave_out)


ZOOS = Path(__file__).resolve().parents[1] / "conf" / "zoo"
"""Where a zoo that is given by its name alone is looked for."""


def zoo_path(source: str | Path) -> Path:
    """The YAML file of a zoo that is given as a path, or by its name alone (`embedded`).

    Raises:
        UserError: Neither there; near names are told.
    """
    path = Path(source)
    if path.suffix or path.exists() or len(path.parts) != 1:
        return path
    named = ZOOS / f"{path}.yaml"
    if not named.exists():
        known = neighbours(str(source), [other.stem for other in ZOOS.glob("*.yaml")])
        raise UserError(f"there is no zoo {str(source)!r}: {known}; or give the path of a YAML file")
    return named


def read_zoo(source: str | Path | Mapping[str, Any]) -> Zoo:
    """A zoo by its name (`embedded`), out of a YAML file, or out of a mapping of `name`, `input` and `networks`
    (entries by name, or a pattern, see `patterns.Pattern`).

    What an entry's `input` leaves open comes from the zoo's, then from what lies beside its file of weights (see
    `preprocessing.stored_input`), then, for networks of timm and torchvision, from the preprocessing of the published
    weights. `task`, what `method=cloning` makes of this zoo unless told otherwise, is
    not looked at here.

    Raises:
        UserError: Unknown or missing field, value of another type, no network, no `input` where none can be looked up,
            an unknown architecture or tag, images of a size that the architecture cannot be built for.
    """
    return with_files(whole_zoo(source))


def whole_zoo(source: str | Path | Mapping[str, Any]) -> Zoo:
    """As `read_zoo`, with the networks whose files are not there, whatever the zoo's `leave_out` says."""
    content, where = _content(source)
    zoo, unfit = _parsed(content, where), {}
    if is_pattern(content["networks"]):
        return zoo  # of which all were built
    for name, entry in zoo.items():
        try:
            require_size(entry)
        except UserError as error:
            if zoo.leave_out != "unfit":
                raise
            unfit[name] = str(error)
    return zoo.without(unfit)


def with_files(zoo: Zoo) -> Zoo:
    """The zoo without the networks whose files are not there, where its `leave_out` says so; they are told by name.

    Raises:
        UserError: No network would be left.
    """
    missing = {} if zoo.leave_out == "never" else missing_files(zoo)
    for name, told in missing.items():
        _log.warning("zoo %s leaves out %s: %s", zoo.name, name, told)
    return zoo.without(missing)


def parse_zoo(source: str | Path | Mapping[str, Any]) -> Zoo:
    """As `read_zoo`, and nothing is built but what a pattern matches: whether an architecture takes its images is not
    looked at."""
    return _parsed(*_content(source))


def parse_zoo_of_run(config: Path) -> Zoo:
    """As `parse_zoo`, of the configuration that a run has written.

    Raises:
        UserError: There is no zoo in it.
    """
    content = read_yaml(config).get("zoo")
    if not isinstance(content, Mapping):
        raise UserError(f"{config}: zoo: got {short_repr(content)}, expected a mapping")
    return parse_zoo(content)


def _content(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """What is in a zoo's file or mapping, and its place for messages."""
    if isinstance(source, Mapping):
        return source, "zoo"
    path = zoo_path(source)
    return read_yaml(path), str(path)


def _parsed(content: Mapping[str, Any], where: str) -> Zoo:
    unknown = [str(key) for key in content if key not in _FIELDS]
    if unknown:
        raise UserError(f"{where}: unknown field {unknown[0]!r}: {neighbours(unknown[0], _FIELDS)}")
    networks = content.get("networks")
    if not isinstance(networks, Mapping) or not networks:
        raise UserError(f"{where}: `networks` holds no network; give at least one under its name")
    leave_out = content.get("leave_out", "unfit" if is_pattern(networks) else "never")
    require("zoo.leave_out", leave_out, one_of(*LEAVE_OUT), default="never")
    name, default_input = str(content.get("name", "zoo")), content.get("input")
    if is_pattern(networks):

        def read_entry(name: str, fields: Mapping[str, Any]) -> ZooEntry:
            return _read_entry(name, fields, default_input, where)

        return Zoo(name, *expand(read_pattern(networks, where), read_entry, where), leave_out=leave_out)
    entries = [_read_entry(str(name), fields, default_input, where) for name, fields in networks.items()]
    return Zoo(name, entries, leave_out=leave_out)


def require_files(zoo: Zoo) -> None:
    """Refuses (`UserError`) a zoo some of whose files of weights are not there, all of them in one line."""
    if missing := missing_files(zoo):
        told = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise UserError(f"{told}; or leave networks out: ~zoo.networks.NAME, or all of them: ++zoo.leave_out=missing")


def missing_files(zoo: Zoo) -> dict[str, str]:
    """The networks whose file of weights is not there, and where it can be had."""
    missing = {}
    for name, entry in zoo.items():
        if entry.weights is not None and entry.weights.file is not None:
            try:
                require_file(entry.weights)
            except UserError as error:
                missing[name] = str(error)
    return missing


def find_entry(text: str, folder: Path) -> ZooEntry:
    """The entry that a word names.

    Args:
        text: `timm:NAME`, `torchvision:NAME` or `module:factory` (random weights; a factory is taken to want colour
            images of 224 x 224), or the name of a network in one of the zoos of `folder`, as `ZOO/NAME` where two
            zoos have one of that name.
        folder: Holds the YAML files of zoos.

    Raises:
        UserError: Nothing has that name; near names are told.
    """
    source, colon, name = text.partition(":")
    if (colon or source in ("timm", "torchvision")) and not (source and name):
        raise UserError(f"{text!r} names no network: write timm:NAME, torchvision:NAME or module:factory")
    if source in ("timm", "torchvision"):
        return ZooEntry(name=name, source=source, model=name, input=published_input(source, name, {}))
    if colon and (folder / f"{source}.yaml").is_file():
        raise UserError(f"{source} is a zoo: write {source}/{name} for its network of that name")
    if colon:
        return ZooEntry(name=text, source=text, input=_IMAGENET)
    contents = {path: read_yaml(path) for path in sorted(folder.glob("*.yaml"))}
    zoos = [parse_zoo(path) for path, content in contents.items() if not is_pattern(content.get("networks"))]
    entries = {f"{zoo.name}/{name}": entry for zoo in zoos for name, entry in zoo.items()}
    found = [key for key in entries if key == text or key.rpartition("/")[2] == text]
    if len(found) > 1:
        raise UserError(f"several zoos have a network {text!r}; write one of {', '.join(found)}")
    if not found:
        names = neighbours(text, {name for zoo in zoos for name in zoo})
        raise UserError(f"no network {text!r} in {folder}: {names}; or timm:NAME, torchvision:NAME, module:factory")
    return entries[found[0]]


def published_input(source: str, model: str, kwargs: Mapping[str, Any]) -> InputSpec:
    """The preprocessing published with an architecture's weights; its size and channels follow `kwargs` if given.

    Other numbers of channels than the published ones get the mean over those.

    Args:
        source: `timm` or `torchvision`.
        model: Name of the architecture; after a dot the tag of the weights, without which it is the default one.
        kwargs: Of the builder; `img_size` and `in_chans` are looked at.

    Raises:
        UserError: Unknown architecture or tag.
    """
    require_architecture(source, model, model)
    published = _timm_input(model) if source == "timm" else _torchvision_input(model)
    channels = kwargs.get("in_chans", published.channels)
    size = kwargs.get("img_size", (published.height, published.width))
    height, width = size if isinstance(size, Sequence) else (size, size)
    spec = replace(published, height=height, width=width)
    if channels == published.channels:
        return spec
    mean, std = (round(fmean(values), 4) for values in (published.mean, published.std))
    return replace(spec, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


def _read_entry(name: str, fields: Any, default_input: Any, where: str) -> ZooEntry:
    where = f"{where}: {name}"
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: expected a mapping of fields, got {short_repr(fields)}")
    kwargs = fields.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise UserError(f"{where}: kwargs: got {short_repr(kwargs)}, expected a mapping of arguments")
    plain = {"name": name, **fields, "kwargs": {}}
    if isinstance(fields.get("classes"), str):
        plain["classes"] = class_list(fields["classes"], where)
    given = _read_input(fields, default_input, where)
    if given is not None:
        plain["input"] = given
    entry = from_plain(ZooEntry, plain, where)
    try:
        return replace(entry, kwargs=dict(kwargs))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _read_input(fields: Mapping[str, Any], default: Any, where: str) -> Any:
    """What an entry says of its input, completed by what the zoo says and by what was published."""
    own = fields.get("input")
    for given in (own, default):
        if given is not None and not isinstance(given, Mapping):
            return given  # refused as a whole when it is converted
    given = {**(default or {}), **(own or {})}
    source, model, weights = fields.get("source"), fields.get("model"), fields.get("weights")
    if any(field.name not in given for field in fields_of(InputSpec)):
        given = {**_stored_input(weights), **given}
    if source not in ("timm", "torchvision") or not isinstance(model, str):
        return given or None
    hub = weights.get("hub") if isinstance(weights, Mapping) else None
    require_architecture(source, tagged(model, hub), where)
    if all(field.name in given for field in fields_of(InputSpec)):
        return given
    kwargs = dict(fields.get("kwargs", {}))
    if type(given.get("channels")) is int:
        kwargs["in_chans"] = max(given["channels"], 1)
    return {**to_plain(published_input(source, tagged(model, hub), kwargs)), **given}


def _stored_input(weights: Any) -> dict[str, Any]:
    """What lies beside a file of weights; weights that are wrong in themselves are refused elsewhere."""
    if not isinstance(weights, Mapping) or not isinstance(weights.get("file"), str):
        return {}
    package = weights.get("package")
    try:
        path = Weights(file=weights["file"], package=package if isinstance(package, str) else None).path
    except UserError:
        return {}
    return stored_input(path if path.is_dir() else path.parent)


def _timm_input(model: str) -> InputSpec:
    import timm  # heavy

    published = timm.get_pretrained_cfg(model)
    if published is None:
        raise UserError(f"{model}: timm publishes no weights, hence no preprocessing; give `input` in full")
    channels, height, width = published.input_size
    statistics = tuple(published.mean), tuple(published.std)
    crop = published.crop_pct, published.crop_mode
    return InputSpec(channels, height, width, *statistics, published.interpolation, *crop)


def _torchvision_input(model: str) -> InputSpec:
    import torchvision

    architecture, _, tag = model.partition(".")
    published = torchvision.models.get_model_weights(architecture)[tag or "DEFAULT"].transforms()
    ((side,), (resized,)) = published.crop_size, published.resize_size
    statistics = tuple(published.mean), tuple(published.std)
    return InputSpec(3, side, side, *statistics, published.interpolation.value, side / resized)


LEAVE_OUT = ("never", "missing", "unfit")
_FIELDS = ("name", "input", "networks", "leave_out", "task")
_log = logging.getLogger(__name__)
_IMAGENET = InputSpec(3, 224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
