"""The file in which owners' sums travel: safetensors, with a digest, checked like anything that a stranger may send."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cloning.statistics import Statistics, Sums
from zoo.digests import digest
from zoo.errors import UserError
from zoo.storage.files import read_safetensors, write_safetensors
from zoo.storage.plain import parse_json

FORMAT = "huozi-statistics/1"


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Writes the sums as one safetensors file, atomically; of G the upper triangle."""
    tensors, described = {}, []
    for number, sums in enumerate(statistics.sums):
        rows, columns = torch.triu_indices(*sums.second.shape)
        tensors |= {f"{number}.counts": sums.counts, f"{number}.by_class": sums.by_class}
        tensors[f"{number}.second"] = sums.second[rows, columns]
        described.append({"owner": sums.owner, "classes": sums.classes, "blocks": sums.blocks})
    write_safetensors(path, tensors, {"format": FORMAT, "sums": json.dumps(described), "tensors": digest(tensors)})


def read_statistics(path: Path) -> Statistics:
    """Reads what ``write_statistics`` wrote.

    Raises:
        UserError: No such file, damaged, or of sums that do not fit what is said of them.
    """
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r} is not supported; expected {FORMAT}")
    if metadata.get("tensors") != digest(tensors):
        raise UserError(f"{path}: damaged: its sums differ from the digest in its header; have it sent again")
    found, sums = Statistics(), parse_json(metadata.get("sums", ""), str(path))
    if not isinstance(sums, list):
        raise UserError(f"{path}: statistics that cannot be: its sums are no list")
    for number, told in enumerate(sums):
        found = found.with_sums(_sums(path, told, {k: tensors.get(f"{number}.{k}") for k in _TENSORS}))
    return found


_TENSORS = ("counts", "by_class", "second")


def _sums(path: Path, told: Mapping[str, object], tensors: Mapping[str, Tensor | None]) -> Sums:
    try:
        owner, classes, blocks = told["owner"], tuple(told["classes"]), tuple(map(tuple, told["blocks"]))
        is_text = all(isinstance(name, str) for name in (owner, *classes, *(name for name, _ in blocks)))
        if not is_text or isinstance(told["classes"], str):
            raise ValueError("names that are no text")
        if not all(type(width) is int and width > 0 for _, width in blocks):
            raise ValueError(f"blocks of {[width for _, width in blocks]} rows")
        width = sum(width for _, width in blocks)
        shapes = {"counts": (len(classes),), "by_class": (len(classes), width), "second": (width * (width + 1) // 2,)}
        fits = all(t is not None and t.dtype == torch.float64 and t.isfinite().all() for t in tensors.values())
        if not fits or any(tuple(tensors[name].shape) != shape for name, shape in shapes.items()):
            raise ValueError("its sums are of another size or precision, or not finite")
        if len(set(classes)) < len(classes) or not (tensors["counts"] >= 1).all():
            raise ValueError("a class twice or without images")
        if not owner or not torch.equal(tensors["counts"], tensors["counts"].round()):
            raise ValueError("an owner without a name, or images that are no whole number")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: statistics that cannot be: {error}") from error
    second = torch.zeros(width, width, dtype=torch.float64)
    rows, columns = torch.triu_indices(width, width)
    second[rows, columns] = tensors["second"]
    second[columns, rows] = tensors["second"]
    sums = Sums(owner, classes, blocks, tensors["counts"], tensors["by_class"], second)
    if not _is_scatter(sums.within):
        raise UserError(f"{path}: statistics that cannot be: G of {owner!r} is less than its classes' means differ by")
    return sums


def _is_scatter(within: Tensor) -> bool:
    """Whether a matrix has no negative eigenvalue but for rounding."""
    scale = within.diagonal().abs().max().clamp_min(1e-300)
    _, failed = torch.linalg.cholesky_ex(within / scale + 1e-6 * torch.eye(len(within), dtype=within.dtype))
    return int(failed) == 0
