"""The zoo of a configuration: what timm and torchvision, whose imports take seconds, say of its networks is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from launch.schema import Config
from zoo.entries import ZooEntry
from zoo.registry import Zoo, whole_zoo, with_files
from zoo.storage.records import from_plain, to_plain
from zoo.storage.store import StageResult, Store


def configured_zoo(config: Config, *, keep: bool) -> Zoo:
    """Returns the zoo of a configuration, read and checked now or by an earlier command of the same versions.

    Args:
        keep: Whether it is kept for later commands, which nothing may be before all checks are over.

    Raises:
        UserError: See ``zoo.registry.read_zoo``; files that are not there count where it is kept.
    """
    store = Store(config.cache.root, rebuild_damaged=config.cache.rebuild_damaged)
    if keep:
        found = store.fetch("zoo", config.zoo, lambda: StageResult(values=_values(whole_zoo(config.zoo))))
        return with_files(_from_values(found))
    stored = store.find("zoo", config.zoo)
    return whole_zoo(config.zoo) if stored is None else _from_values(stored)


def _values(zoo: Zoo) -> list[Any]:
    return [zoo.name, [to_plain(entry) for entry in zoo.values()], zoo.leave_out, zoo.left_out]


def _from_values(found: StageResult) -> Zoo:
    name, entries, leave_out, left_out = found.values
    return Zoo(name, [_entry(plain) for plain in entries], left_out, leave_out=leave_out)


def _entry(plain: dict[str, Any]) -> ZooEntry:
    return replace(from_plain(ZooEntry, {**plain, "kwargs": {}}, "zoo"), kwargs=plain["kwargs"])
