from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cloning_stand_ins import adapter, clone, images, network

from cloning.blueprint import CloningBlueprint
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
    clones = [clone(ZOO["regnety"], "75", 2), clone(ZOO["vit"], "8", 0)]
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
