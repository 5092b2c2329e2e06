from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import adapter, as_if_tuned, clone, images, network

from cloning.bundle import pack, packed, unpack
from cloning.composite import Composite, bare, combine, read_composite, unpack_any
from cloning.framing import Packed
from cloning.network import ClonedNetwork
from zoo.blueprint import Provenance
from zoo.errors import UserError

TARGET = network("resnet", "abc")
SOURCES = {"regnety": network("regnety", "cde", 1), "vit": network("vit", "fgh"), "mixer": network("mixer", "xy")}


def load(name: str):
    return {"resnet": TARGET, **SOURCES}[name]


def part(
    source: str, classes: str, position: int = 0, seed: int = 0, kept: str = "abc", head_cuts: tuple[int, ...] = ()
) -> ClonedNetwork:
    """A cloned network whose head has learnt something in every row."""
    grafted = clone(SOURCES[source], classes, position, num_selected=5 if source == "vit" else None)
    found = ClonedNetwork(TARGET, [*kept, *classes], [grafted], [adapter(TARGET, grafted)], head_cuts)
    return as_if_tuned(found, seed)


@pytest.fixture(scope="module")
def packs() -> dict[str, Composite]:
    networks = {
        "regnety": part("regnety", "d", 2, 1),
        "vit": part("vit", "fg", 0, 2, head_cuts=(1, 3)),
        "mixer": part("mixer", "x", 1, 3, head_cuts=(3, 5)),
    }
    return {name: read_composite(packed(found, f"{name}.hz")) for name, found in networks.items()}


def test_one_clone_on_its_target_is_the_network_that_was_packed(packs: dict[str, Composite]) -> None:
    found = bare(TARGET).with_clone(packs["vit"])
    assert found.to_bytes() == packs["vit"].to_bytes()
    x = images(3)
    assert torch.equal(found.network(load)(x), part("vit", "fg", 0, 2, head_cuts=(1, 3))(x))


def test_the_target_alone_gives_its_own_logits() -> None:
    again = read_composite(Packed("bare", bare(TARGET).to_bytes()))
    assert torch.equal(again.network(load)(images(3)), TARGET.logits(images(3)))
    assert again.blueprint.clones == ()


@pytest.mark.parametrize("order", list(itertools.permutations(("regnety", "vit", "mixer"))))
def test_clones_come_and_go_in_any_order(packs: dict[str, Composite], order: tuple[str, ...]) -> None:
    stages = [bare(TARGET)]
    for name in order:
        stages.append(read_composite(Packed("file", stages[-1].with_clone(packs[name]).to_bytes())))
    everything = stages[-1].network(load)
    reference = (
        bare(TARGET).with_clone(packs["mixer"]).with_clone(packs["regnety"]).with_clone(packs["vit"]).network(load)
    )
    columns = [reference.classes.index(name) for name in everything.classes]
    torch.testing.assert_close(everything(images(3)), reference(images(3))[:, columns])
    back = stages[-1]
    for name, before in zip(reversed(order), reversed(stages[:-1]), strict=True):
        back = back.without(name, load)
        assert back.to_bytes() == before.to_bytes()
    back = stages[-1].without(order[0], load).without(order[2], load)
    assert back.to_bytes() == packs[order[1]].to_bytes()


def test_the_logits_of_the_whole_are_those_of_the_parts_and_for_the_target_their_mean(packs: dict) -> None:
    first, second = part("regnety", "d", 2, 1, head_cuts=(1, 2)), part("vit", "fg", 0, 2, head_cuts=(2, 4))
    whole, x = combine(TARGET, "abcdfg", [first, second]), images(5)
    both = first(x), second(x)
    expected = torch.cat([(both[0][:, :3] + both[1][:, :3]) / 2, both[0][:, 3:], both[1][:, 3:]], dim=1)
    torch.testing.assert_close(whole(x), expected)


def test_parts_that_do_not_know_the_same_classes_of_the_target_are_refused() -> None:
    few = read_composite(packed(part("vit", "f", 0, 2, "ba"), "few.hz"))
    every = read_composite(packed(part("regnety", "d", 2, 1), "every.hz"))
    with pytest.raises(
        UserError, match=r"few.hz knows the classes b, a of 'resnet', and a, b, c are here: c would not"
    ):
        bare(TARGET).with_clone(few)
    with pytest.raises(UserError, match=r"every.hz knows .* c would .* with task.classes=\[b,a,c\]"):
        few.with_clone(every)
    same = read_composite(packed(part("regnety", "d", 2, 1, "ab"), "same.hz"))
    assert few.with_clone(same).classes == ("b", "a", "f", "d")


def test_a_source_of_several_goes_and_what_is_left_is_packed_anew() -> None:
    grafted = [clone(SOURCES["regnety"], "d", 2), clone(SOURCES["vit"], "fg")]
    both = ClonedNetwork(TARGET, list("abcdfg"), grafted, [adapter(TARGET, c) for c in grafted])
    rest = read_composite(packed(both, "both.hz")).without("vit", load).network(load)
    assert rest.classes == tuple("abcd")
    assert torch.equal(rest(images(2)), both.without("vit")(images(2)))


def test_what_is_left_stays_in_the_precision_it_came_in_and_what_was_repaired_stays_so() -> None:
    grafted = [clone(SOURCES["regnety"], "d", 2), clone(SOURCES["vit"], "fg")]
    both = ClonedNetwork(TARGET, list("abcdfg"), grafted, [adapter(TARGET, c) for c in grafted])
    sent = packed(both, "both.hz", dtype="float16", provenance=[Provenance("repaired")])
    (left,) = read_composite(sent).without("vit", load).parts
    assert len(left.content) < len(sent.content)
    found = unpack(left, load)
    assert (found.dtype, found.was_repaired) == ("float16", True)


def test_what_does_not_belong_together_is_refused(packs: dict[str, Composite]) -> None:
    base = bare(TARGET).with_clone(packs["vit"])
    other = ClonedNetwork(SOURCES["mixer"], ["x", "d"], [clone(SOURCES["regnety"], "d")], [None])
    for addition, message in (
        (packs["vit"], "a clone of 'vit' is there already"),
        (read_composite(packed(other, "other.hz")), "other.hz is a clone on 'mixer', and 'resnet' is the target here"),
        (Composite("resnet", "sha256:0", tuple("abcd"), packs["regnety"].parts), "made on other weights of 'resnet'"),
        (
            read_composite(packed(part("regnety", "c", 0, 1, "ab"), "twice.hz")),
            "twice.hz gives class 'c'",
        ),
        (bare(TARGET), "resnet alone has no clone to add"),
    ):
        with pytest.raises(UserError, match=message):
            base.with_clone(addition)
    with pytest.raises(UserError, match="has no clone of 'regnety' to take off, but of vit"):
        base.without("regnety", load)


def test_damage_is_told_by_name(tmp_path: Path, packs: dict[str, Composite]) -> None:
    content = bare(TARGET).with_clone(packs["vit"]).with_clone(packs["mixer"]).to_bytes()
    path = tmp_path / "both.hz"
    path.write_bytes(content)
    assert unpack_any(path, load).difference == 0
    flipped = bytearray(content)
    flipped[-300] ^= 1
    for changed, message in (
        (content[:-10], r"both.hz: its part 2: damaged"),
        (bytes(flipped), r"both.hz: its part 2: damaged"),
        (content.replace(b'"target"', b'"tarGet"', 1), r"both.hz: damaged in its header"),
        (content + b"x", r"1 bytes too many"),
        (content[:20], r"damaged in its header"),
        (b"something else", r"no packed clone"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=message) as refusal:
            unpack_any(path, load)
        assert "\n" not in str(refusal.value)


def test_a_single_file_is_read_as_before(tmp_path: Path) -> None:
    found = part("regnety", "d", 2, 1)
    pack(found, tmp_path / "clone.hz")
    assert read_composite(tmp_path / "clone.hz").blueprint.composition == "resnet + regnety{d}@2"
    assert torch.equal(unpack_any(tmp_path / "clone.hz", load).network(images(2)), found(images(2)))
