"""Every kind of file that we write, damaged or exchanged in some hundred ways: refused by name, or without effect.

A file under a checksum must be refused, or give what it gave before. Text without one (a blueprint, ``result.json``,
``config.yaml``) may say something else that is whole in itself; it must never end in anything but a value or a refusal.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf.errors import OmegaConfBaseException

import launch.resume
from cloning.bundle import MAGIC, _read
from datamodules.manifest import ListedImage, Manifest
from launch.resume import read_config
from launch.run_directory import read_result
from zoo.blueprint import BlockSpec, Bundle, HeadSpec, ReassemblyBlueprint, read_blueprint, read_bundle, write_bundle
from zoo.errors import UserError
from zoo.storage import files
from zoo.storage.store import StageResult, Store

NUM_FLIPS, NUM_CUTS = 100, 40
DIGEST = "sha256:" + "ab" * 32


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        path: of a good one.
        sibling: of a good one that is another.
        read: gives what compares equal for equal content.
        is_summed: whether a checksum covers all of it.
    """

    path: Path
    sibling: Path
    read: Callable[[], Any]
    is_summed: bool


def blueprint(*classes: str) -> ReassemblyBlueprint:
    return ReassemblyBlueprint((BlockSpec("resnet", (0, 4)),), (), HeadSpec(classes=classes), {"resnet": DIGEST})


def bundles(folder: Path) -> tuple[Path, Path]:
    found = folder / "bundle", folder / "other"
    for seed, directory in enumerate(found):
        weights = torch.randn(2, 20, generator=torch.Generator().manual_seed(seed))
        tensors = {"head.weight": weights, "head.bias": torch.zeros(2)}
        write_bundle(directory, Bundle(blueprint("cat", f"dog{seed}"), tensors, complete=False))
    return found


def bundle_content(directory: Path) -> Any:
    found = read_bundle(directory)
    return found.blueprint, found.complete, {name: t.numpy().tobytes() for name, t in found.tensors.items()}


def entry(folder: Path) -> Kind:
    def result(seed: int) -> StageResult:
        return StageResult({"x": torch.full((30,), float(seed))}, {"seed": seed})

    def read() -> Any:
        found = store.fetch("features", 0, lambda: pytest.fail("computed anew without a word"))
        return found.values, found.tensors["x"].tolist()

    store = Store(folder)
    for seed in range(2):
        store.fetch("features", seed, lambda seed=seed: result(seed))
    return Kind(*(folder / "features" / f"{store.key('features', seed)}.entry" for seed in range(2)), read, True)


def weights(folder: Path) -> Kind:
    first, second = bundles(folder)
    name = "weights.safetensors"
    return Kind(first / name, second / name, lambda: bundle_content(first), True)


def blueprint_of_bundle(folder: Path) -> Kind:
    first, second = bundles(folder)
    return Kind(first / "blueprint.yaml", second / "blueprint.yaml", lambda: bundle_content(first), True)


def lone_blueprint(folder: Path) -> Kind:
    path = bundles(folder)[0] / "blueprint.yaml"
    return Kind(path, path.parents[1] / "other" / "weights.safetensors", lambda: read_blueprint(path), False)


def packed_clone(folder: Path) -> Kind:
    """Sections of random bytes; what is built of good ones is tested where clones are."""
    paths = folder / "clone.hz", folder / "other.hz"
    for seed, path in enumerate(paths):
        sections = {name: random.Random(seed).randbytes(80) for name in ("blueprint", "adapters", "head", "probe")}
        table = [[name, len(content), hashlib.sha256(content).hexdigest()] for name, content in sections.items()]
        header = json.dumps({"dtype": "float32", "sections": table}).encode()
        first = MAGIC + b" " + hashlib.sha256(header).hexdigest().encode()
        path.write_bytes(b"\n".join([first, header, b"".join(sections.values())]))
    paths[1].write_bytes(paths[1].read_bytes()[:-320] + paths[0].read_bytes()[-320:])  # the header of another

    def read() -> Any:
        header, sections, damaged = _read(paths[0])
        if damaged:
            raise UserError(f"damaged in {damaged}")
        return header, sections

    return Kind(*paths, read, True)


def manifest(folder: Path) -> Kind:
    paths = folder / "manifest", folder / "other"
    for seed, path in enumerate(paths):
        images = {f"{i}.png": ListedImage("cat", "train", i, seed) for i in range(30)}
        path.write_bytes(Manifest(f"{DIGEST}{seed}", images).to_bytes())
    return Kind(*paths, lambda: Manifest.from_bytes(paths[0].read_bytes()), False)


def result_file(folder: Path) -> Kind:
    path, other = folder / "result.json", folder / "other.json"
    files.write_json(path, {"status": "completed", "metrics": {"value": 0.5, "accuracy": 0.25}, "files": ["a"]})
    files.write_json(other, ["something else"])
    return Kind(path, other, lambda: read_result(folder), False)


def config_file(folder: Path) -> Kind:
    path, other = folder / "config.yaml", folder / "other.yaml"
    files.write_yaml(path, {"seed": 3, "tuning": {"mode": "freeze", "num_epochs": 2}, "cache": {"root": "runs/cache"}})
    files.write_yaml(other, {"format": "huozi-blueprint/1"})
    return Kind(path, other, lambda: read_config(path), False)


KINDS = (entry, weights, blueprint_of_bundle, lone_blueprint, packed_clone, manifest, result_file, config_file)


def damages(content: bytes, sibling: bytes) -> Iterator[bytes]:
    """Flipped bits and cuts all over the content, and other files in its place."""
    for position in range(0, len(content), max(1, len(content) // NUM_FLIPS)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        yield bytes(damaged)
    for length in range(0, len(content), max(1, len(content) // NUM_CUTS)):
        yield content[:length]
    yield from (content + b"\0", content * 2, sibling, bytes(len(content)), random.Random(0).randbytes(len(content)))
    yield from (
        b"\n",
        b"[" * 100_000,
        b"{" * 1000,
        b"null",
        b'"text"',
        b"- " * 5000,
        b"\xff\xfe\x00",
        b"%YAML 9.9\n---\n",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_says_the_same(tmp_path: Path, record_property, monkeypatch, kind) -> None:
    monkeypatch.setattr("launch.resume.structured", functools.cache(launch.resume.structured))  # half of the time
    kind = kind(tmp_path)
    content, whole = kind.path.read_bytes(), kind.read()
    counts = {"refused": 0, "the same": 0, "another whole text": 0}
    for damaged in damages(content, kind.sibling.read_bytes()):
        kind.path.write_bytes(damaged)
        try:
            found = kind.read()
        except (UserError, OmegaConfBaseException):
            counts["refused"] += 1
            continue
        outcome = "the same" if found == whole else "refused" if found is None else "another whole text"
        counts[outcome] += 1
        assert not (kind.is_summed and outcome == "another whole text"), damaged[:200]
    kind.path.unlink()
    kind.path.mkdir()
    with pytest.raises((UserError, OSError, AssertionError)):
        assert kind.read() is not None
    assert sum(counts.values()) >= 100
    assert counts["refused"] >= 45
    told = ", ".join(f"{n} {what}" for what, n in counts.items())
    record_property("faults", f"{kind.path.name}: {sum(counts.values())} damaged files, {told}")


def test_files_of_two_bundles_do_not_mix(tmp_path: Path) -> None:
    first, second = bundles(tmp_path)
    for name in ("blueprint.yaml", "weights.safetensors"):
        kept = (first / name).read_bytes()
        (first / name).write_bytes((second / name).read_bytes())
        with pytest.raises(UserError, match="belong to another blueprint"):
            read_bundle(first)
        (first / name).write_bytes(kept)
    assert bundle_content(first) != bundle_content(second)


def test_a_saved_configuration_refers_to_nothing(tmp_path: Path) -> None:
    levels = {"a0": "x" * 10} | {f"a{i}": f"${{zoo.a{i - 1}}}" * 10 for i in range(1, 10)}
    for zoo, told in ((levels, "zoo.a0"), ({"home": "${oc.env:HOME}"}, "oc.env:HOME"), ({"${x}": 1}, "x")):
        files.write_yaml(tmp_path / "config.yaml", {"zoo": zoo})
        with pytest.raises(UserError, match=rf"\$\{{{told}.* refers to something else"):
            read_config(tmp_path / "config.yaml")
