from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cloning_stand_ins import adapter, clone, images, network
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from cloning.blueprint import CloneSpec, CloningBlueprint
from cloning.bundle import from_bundle, pack, repair, to_bundle, unpack
from cloning.frozen import FrozenNetwork
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from zoo.blueprint import read_bundle, write_bundle
from zoo.errors import UserError

ZOO = {"resnet": network("resnet", "01234"), "regnety": network("regnety", "56789"), "vit": network("vit", "56789", 1)}


def load(name: str) -> FrozenNetwork:
    return ZOO[name]


def tuned() -> ClonedNetwork:
    """Two clones, with learnt values that no initialisation would give."""
    target = ZOO["resnet"]
    clones = [clone(ZOO["regnety"], "75", 2), clone(ZOO["vit"], "8", 0, num_selected=9)]
    composed = ClonedNetwork(target, list("27085"), clones, [adapter(target, c) for c in clones])
    with torch.no_grad():
        for parameter in composed.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return composed


def few() -> Samples:
    labels = torch.arange(5).repeat(6)
    return Samples(images(30, seed=4), labels)


def test_a_packed_network_comes_back_bit_equal(tmp_path: Path) -> None:
    composed, x = tuned(), images(6)
    size = pack(composed, tmp_path / "clone")
    assert size == (tmp_path / "clone").stat().st_size
    found = unpack(tmp_path / "clone", load)
    assert found.network.classes == composed.classes
    assert torch.equal(found.network(x), composed(x))
    assert (found.difference, found.agreement) == (0, 1)


def test_float16_is_half_the_size_and_says_how_far_it_is_off(tmp_path: Path) -> None:
    composed = tuned()
    whole, half = pack(composed, tmp_path / "whole"), pack(composed, tmp_path / "half", dtype="float16")
    learnt = 4 * sum(p.numel() for p in composed.parameters())
    assert whole - half == pytest.approx(learnt / 2, abs=64)
    found = unpack(tmp_path / "half", load)
    assert 0 < found.difference < 0.1


def test_every_cut_and_flipped_bit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "clone"
    pack(tuned(), path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(len(content), (40,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        for bad in (bytes(damaged), content[:position]):
            path.write_bytes(bad)
            with pytest.raises(UserError, match=r"damaged|no packed clone") as error:
                unpack(path, load)
            assert "\n" not in str(error.value)
    path.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="1 bytes too many"):
        unpack(path, load)


def test_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    pack(tuned(), tmp_path / "clone")
    other = {**ZOO, "regnety": network("regnety", "56789", seed=9)}
    with pytest.raises(UserError, match="network 'regnety': the blueprint was made with sha256"):
        unpack(tmp_path / "clone", other.__getitem__)


@pytest.mark.parametrize("part", ["adapters", "head"])
def test_damaged_weights_are_fitted_anew(tmp_path: Path, part: str) -> None:
    path, composed = tmp_path / "clone", tuned()
    pack(composed, path)
    content = bytearray(path.read_bytes())
    start = content.find(b'{"' + part.encode())
    assert start > 0
    content[start + 150] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"damaged in {part} .*python -m cloning repair"):
        unpack(path, load)
    found = repair(path, load, lambda spec: few())
    assert found.repaired == (part,)
    same = {"adapters": "head.weight", "head": "adapters.0.projection.weight"}[part]
    assert torch.equal(found.network.state_dict()[same], composed.state_dict()[same])
    assert torch.isfinite(found.network(images(2))).all()


def test_adapters_that_there_are_none_of_are_not_fitted_anew(tmp_path: Path) -> None:
    path, composed = tmp_path / "clone", tuned()
    at_image = [replace(clone, position=0) for clone in composed.clones]
    pack(ClonedNetwork(composed.target, composed.classes, at_image, [None] * len(at_image)), path)
    content = bytearray(path.read_bytes())
    content[content.find(b'{"head') - 9] ^= 1  # the last byte of the section before it
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged in adapters"):
        unpack(path, load)
    found = repair(path, load, lambda spec: few())
    assert (found.repaired, found.difference) == ((), 0)


def test_the_directory_form_holds_tuned_copies_too(tmp_path: Path) -> None:
    x = images(3)
    for composed in (tuned(), tuned().thawed()):
        with torch.no_grad():
            for parameter in composed.copies.parameters():
                parameter.add_(0.01)
        write_bundle(tmp_path / "bundle", to_bundle(composed))
        found = from_bundle(read_bundle(tmp_path / "bundle", CloningBlueprint), load)
        assert torch.equal(found(x), composed.eval()(x))
    with pytest.raises(UserError, match="send its bundle directory"):
        pack(composed, tmp_path / "clone")
    assert not (tmp_path / "clone").exists()


# What a stranger may send: every file here has good checksums.


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "clone"
    pack(tuned(), path)
    return path.read_bytes()


def sections_of(content: bytes) -> dict[str, bytes]:
    _, header, payload = content.split(b"\n", 2)
    sections, start = {}, 0
    for name, size, _ in json.loads(header)["sections"]:
        sections[name] = payload[start : start + size]
        start += size
    return sections


def table_of(sections: Mapping[str, bytes]) -> list[list[Any]]:
    return [[name, len(content), hashlib.sha256(content).hexdigest()] for name, content in sections.items()]


def crafted(sections: Mapping[str, bytes], header: bytes | dict[str, Any] | None = None) -> bytes:
    """A file whose checksums are good whatever stands in it."""
    if not isinstance(header, bytes):
        header = json.dumps({"dtype": "float32", "sections": table_of(sections), **(header or {})}).encode()
    return b"\n".join(
        [b"huozi-clone/1 " + hashlib.sha256(header).hexdigest().encode(), header, b"".join(sections.values())]
    )


def changed(sections: Mapping[str, bytes], part: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    tensors = load_safetensors(sections[part])
    return crafted({**sections, part: save_safetensors(change(tensors) or tensors)})


def text_of(sections: Mapping[str, bytes]) -> str:
    return zlib.decompress(sections["blueprint"]).decode()


def with_text(sections: Mapping[str, bytes], old: str, new: str) -> bytes:
    assert old in text_of(sections)
    return crafted({**sections, "blueprint": zlib.compress(text_of(sections).replace(old, new).encode())})


def bomb() -> bytes:
    compress = zlib.compressobj(9)
    return b"".join([compress.compress(b"#" * 2**20) for _ in range(50)] + [compress.flush()])


STRANGE = {
    "header is no JSON": (lambda s: crafted(s, b"{"), "its header: not readable as JSON"),
    "header is a list": (lambda s: crafted(s, b"[]"), "its header: top level: got []"),
    "header without sections": (lambda s: crafted(s, b'{"dtype": "float32"}'), "missing field 'sections'"),
    "header with more": (lambda s: crafted(s, {"code": 1}), "unknown field 'code'"),
    "another precision": (lambda s: crafted(s, {"dtype": "int8"}), "dtype: got 'int8', expected float32 or float16"),
    "no adapters": (lambda s: crafted({n: c for n, c in s.items() if n != "adapters"}), "sections: got ("),
    "no section": (lambda s: crafted({}), "sections: got ()"),
    "a section twice": (lambda s: crafted(s, {"sections": table_of(s) + table_of(s)[:1]}), "sections: got ("),
    "a section of another name": (lambda s: crafted({**s, "more": b""}), "sections: got ("),
    "a negative size": (
        lambda s: crafted(s, {"sections": [[n, -1, h] for n, _, h in table_of(s)]}),
        "section blueprint",
    ),
    "a size of 10^30": (lambda s: crafted(s, {"sections": [[n, 10**30, h] for n, _, h in table_of(s)]}), "64 bits"),
    "a size that is true": (lambda s: crafted(s, {"sections": [[n, True, h] for n, _, h in table_of(s)]}), "got True"),
    "a checksum that is none": (lambda s: crafted(s, {"sections": [[n, z, "x"] for n, z, _ in table_of(s)]}), "sha256"),
    "sizes beyond the end": (
        lambda s: crafted(s, {"sections": [[n, 10**15, h] for n, _, h in table_of(s)]}),
        "damaged in blueprint, adapters, head, probe",
    ),
    "a header without end": (lambda s: crafted(s, b"x" * 10**5), "damaged in its header"),
    "blueprint not deflated": (
        lambda s: crafted({**s, "blueprint": b"abc"}),
        "its blueprint: not readable",
    ),
    "blueprint of 50 MB": (
        lambda s: crafted({**s, "blueprint": bomb()}),
        "more than 2,097,152 bytes",
    ),
    "blueprint cut": (lambda s: crafted({**s, "blueprint": s["blueprint"][:-9]}), "its blueprint: not readable as"),
    "blueprint no text": (lambda s: crafted({**s, "blueprint": zlib.compress(b"\xff")}), "its blueprint: no text"),
    "blueprint a list": (lambda s: crafted({**s, "blueprint": zlib.compress(b"[]")}), "expected a mapping of fields"),
    "blueprint of another format": (
        lambda s: with_text(s, "huozi-blueprint/1", "huozi-blueprint/9"),
        "is not supported",
    ),
    "blueprint of another method": (lambda s: with_text(s, "method: cloning", "method: other"), "method=cloning"),
    "blueprint with aliases": (lambda s: with_text(s, "target: resnet", "target: &a resnet"), "anchors and aliases"),
    "position outside": (lambda s: with_text(s, "position: 2", "position: 99"), "insertion.position=99 is outside"),
    "position of 10^20": (lambda s: with_text(s, "position: 2", f"position: {10**20}"), "64 bits"),
    "head no safetensors": (lambda s: crafted({**s, "head": b"abc"}), "its section head cannot be read"),
    "adapters and head swapped": (lambda s: crafted({**s, "adapters": s["head"]}), "its section adapters holds 'head."),
    "a tensor too many": (
        lambda s: changed(s, "head", lambda t: {**t, "head.more": torch.zeros(1)}),
        "gives no tensor 'head.more'",
    ),
    "a missing tensor": (
        lambda s: changed(s, "head", lambda t: {"head.bias": t["head.bias"]}),
        "is missing",
    ),
    "a tensor of another shape": (
        lambda s: changed(s, "head", lambda t: {**t, "head.bias": torch.zeros(3)}),
        "'head.bias' is torch.float32 [3]",
    ),
    "a tensor of another precision": (
        lambda s: changed(s, "head", lambda t: {**t, "head.bias": t["head.bias"].double()}),
        "'head.bias', torch.float64; expected head... of float32",
    ),
    "NaN in the head": (
        lambda s: changed(s, "head", lambda t: {**t, "head.bias": t["head.bias"] * float("nan")}),
        "NaN",
    ),
    "probe without logits": (lambda s: changed(s, "probe", lambda t: {"x": torch.zeros(1)}), "section probe"),
    "probe of one image": (
        lambda s: changed(s, "probe", lambda t: {"logits": t["logits"][:1]}),
        "section probe",
    ),
    "probe of whole numbers": (lambda s: changed(s, "probe", lambda t: {"logits": t["logits"].int()}), "section probe"),
    "logits far apart": (lambda s: changed(s, "probe", lambda t: {"logits": t["logits"] + 57}), "of the largest apart"),
    "logits that are NaN": (
        lambda s: changed(s, "probe", lambda t: {"logits": t["logits"] * float("nan")}),
        "logits that are NaN",
    ),
    "logits that are huge": (
        lambda s: changed(s, "probe", lambda t: {"logits": t["logits"] * 1e30}),
        "apart, more",
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_file_is_refused_by_name(tmp_path: Path, packed: bytes, what: str) -> None:
    make, message = STRANGE[what]
    path = tmp_path / "clone"
    path.write_bytes(make(sections_of(packed)))
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        unpack(path, load)
    assert "\n" not in str(refusal.value)


def test_a_file_crafted_of_its_own_sections_is_taken(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "clone").write_bytes(crafted(sections_of(packed)))
    assert unpack(tmp_path / "clone", load).difference == 0


def test_logits_may_be_as_far_apart_as_is_allowed(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "clone"
    path.write_bytes(changed(sections_of(packed), "probe", lambda t: {"logits": t["logits"] * (1 + 1e-4)}))
    assert unpack(path, load).difference > 0
    with pytest.raises(UserError, match=r"of the largest apart, more than 1e-05: .*--tolerance"):
        unpack(path, load, tolerance=1e-5)
    path.write_bytes(changed(sections_of(packed), "probe", lambda t: {"logits": t["logits"] * 1.01}))
    with pytest.raises(UserError, match=r"of the largest apart, more than 0.001"):
        unpack(path, load)
    assert unpack(path, load, tolerance=0.1).difference > 0


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e5, "float16")])
def test_what_does_not_survive_the_way_is_not_packed(tmp_path: Path, value: float, dtype: str) -> None:
    composed = tuned()
    with torch.no_grad():
        composed.head.bias[1] = value
    with pytest.raises(UserError, match=f"'head.bias' is NaN, infinite or too large for {dtype}"):
        pack(composed, tmp_path / "clone", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_other_precision_or_with_nan_is_refused() -> None:
    for change, message in (
        (lambda t: t.double(), "'head.bias' is torch.float64"),
        (lambda t: t * float("nan"), "'head.bias' holds NaN"),
    ):
        bundle = to_bundle(tuned())
        bundle.tensors["head.bias"] = change(bundle.tensors["head.bias"])
        with pytest.raises(UserError, match=message):
            from_bundle(bundle, load)


def test_more_classes_or_clones_than_can_be_built_are_refused() -> None:
    networks = dict.fromkeys(("resnet", "vit"), "sha256:" + "0" * 64)
    clones = (CloneSpec("vit", ("5",), 0, ""),) * 1001
    for classes, grafts, message in (
        (tuple(map(str, range(100_001))), clones[:1], "classes: got 100001, expected at least one and at most 100,000"),
        ((), clones[:1], "classes: got 0"),
        (("0", "0"), clones[:1], "must differ"),
        (("0",), clones, "clones: got 1001, expected at most 1,000"),
    ):
        with pytest.raises(UserError, match=message):
            CloningBlueprint(classes, "resnet", grafts, networks)
