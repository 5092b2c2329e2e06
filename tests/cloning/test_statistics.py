from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import clone, cloned, network, small_data
from safetensors.torch import save_file
from torch.nn import functional as F

from cloning import statistics as statistics_module
from cloning.fitting import network_features
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.statistics import (
    Statistics,
    Sums,
    _moments,
    blocks_of,
    owner_sums,
    solve_from_statistics,
)
from cloning.statistics_file import FORMAT, read_statistics, write_statistics
from datamodules.correction import CorrectionData
from zoo.digests import digest
from zoo.errors import UserError
from zoo.ridge import Moments

TARGET, FIRST, SECOND = network("resnet", "abc"), network("regnety", "cde"), network("convnext", "fg")
OWNERS = {"resnet": "abc", "regnety": "de", "convnext": "f"}
OPTIONS = {"projection": 512, "ridge": 1e-3}


def whole(*, position: int = 0, head_cuts: tuple[int, ...] = (), num_selected: int | None = None) -> ClonedNetwork:
    grafts = clone(FIRST, "de", position), clone(SECOND, "f", num_selected=num_selected)
    return cloned(TARGET, *grafts, head_cuts=head_cuts)


def samples_of(found: ClonedNetwork, classes: str) -> Samples:
    data = CorrectionData(small_data("abcdefg"), classes=found.classes, cloned=classes, fraction=1.0, exemplars=0)
    data.use_input(TARGET.input)
    return Samples(*data.images("train", TARGET.input))


def shipped(found: ClonedNetwork, projection: int = 512) -> Statistics:
    statistics = Statistics()
    for owner, classes in OWNERS.items():
        if set(classes) & set(found.classes):
            sums = owner_sums(found, [samples_of(found, classes)], owner, projection=projection)
            statistics = statistics.with_sums(sums)
    return statistics


@pytest.mark.parametrize("head_cuts", [(), (1, 4)])
def test_the_head_is_that_of_ridge_regression_on_the_images_themselves(head_cuts: tuple[int, ...]) -> None:
    found = whole(position=2, head_cuts=head_cuts, num_selected=11)
    assert {block.digest for block in blocks_of(found, 512)} != {
        block.digest for block in blocks_of(whole(position=2, head_cuts=head_cuts, num_selected=10), 512)
    }
    assert len(blocks_of(found, 512)) == 3 + len(head_cuts)
    solve_from_statistics(found, shipped(found), **OPTIONS)
    parts = [samples_of(found, classes) for classes in OWNERS.values()]
    labels = torch.cat([part.labels for part in parts])
    features = torch.cat([network_features(found, part.images) for part in parts]).double()
    blocks = blocks_of(found, 512)
    h = torch.cat([features[:, block.columns] @ block.projection.T for block in blocks], dim=1)
    shares = [(len(own) / len(part.labels), len(part.labels)) for part, own in zip(parts, OWNERS.values(), strict=True)]
    weights = torch.cat([torch.full((count,), share, dtype=torch.float64) for share, count in shares])
    direct = Moments.zeros(h.shape[1], len(found.classes))
    direct.add(h, F.one_hot(labels, len(found.classes)).double(), weights)
    ((weight, bias),) = direct.solve([1e-3])
    scores = h @ weight + bias
    logits = features @ found.head.weight.detach().double().T + found.head.bias.detach().double()
    factor = float((logits * scores).sum() / scores.square().sum())
    assert 1 <= factor <= 100.001
    torch.testing.assert_close(logits, factor * scores, rtol=0, atol=1e-2)  # the head itself is float32
    summed = Moments.zeros(h.shape[1], len(found.classes))
    for sums in shipped(found).sums:
        summed = summed + _moments(sums, found.classes)
    ((again, intercept),) = summed.solve([1e-3])
    torch.testing.assert_close(again, weight, rtol=1e-8, atol=1e-8 * float(weight.abs().max()))
    torch.testing.assert_close(intercept, bias, rtol=1e-7, atol=1e-8)


def test_what_comes_and_goes_leaves_nothing_behind() -> None:
    """The clone of ``convnext`` comes with its owner's sums, and goes: the head is what it was, bit for bit."""
    found = whole(head_cuts=(2,))
    statistics = shipped(found)
    before = found.without("convnext")
    rest = statistics.without("convnext")
    solve_from_statistics(before, rest, **OPTIONS)
    first = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    grown = rest.with_sums(next(sums for sums in statistics.sums if sums.owner == "convnext"))
    solve_from_statistics(found, grown, **OPTIONS)
    assert "f" in found.classes
    after = found.without("convnext")
    solve_from_statistics(after, grown.without("convnext"), **OPTIONS)
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, first[name])
    alone = shipped(before)  # owners that never heard of the other clone ship the same sums of what is left
    for one, other in zip(alone.sums, rest.sums, strict=True):
        torch.testing.assert_close(other.of(blocks_of(before, 512)).second, one.second, rtol=1e-9, atol=1e-9)


def test_the_order_in_which_owners_come_does_not_matter() -> None:
    found, statistics = whole(), shipped(whole())
    solve_from_statistics(found, statistics, **OPTIONS)
    first = found.head.weight.clone()
    backwards = Statistics()
    for sums in reversed(statistics.sums):
        backwards = backwards.with_sums(sums)
    solve_from_statistics(found, backwards, **OPTIONS)
    assert torch.equal(found.head.weight, first)


def test_a_solved_head_knows_the_patterns_and_a_narrow_projection_still_does() -> None:
    for projection in (512, 8):
        found = whole()
        solve_from_statistics(found, shipped(found, projection), projection=projection, ridge=1e-3)
        part = samples_of(found, "abcdef")
        assert (found(part.images).argmax(1) == part.labels).double().mean() > 0.9
    blocks = blocks_of(found, 8)
    assert [tuple(block.projection.shape) for block in blocks] == [(8, n.num_features) for n in (TARGET, FIRST, SECOND)]
    for block in blocks:
        torch.testing.assert_close(block.projection @ block.projection.T, torch.eye(8, dtype=torch.float64))


def test_owners_of_few_images_get_a_stronger_ridge() -> None:
    found = whole()
    few, many = Statistics(), Statistics()
    for owner, classes in OWNERS.items():
        samples = samples_of(found, classes)
        part = torch.cat([(samples.labels == label).nonzero().flatten()[:4] for label in samples.labels.unique()])
        scarce = Samples(samples.images[part], samples.labels[part])
        few = few.with_sums(owner_sums(found, [scarce], owner, projection=512))
        many = many.with_sums(owner_sums(found, [samples], owner, projection=512))
    chosen = [solve_from_statistics(found, sums, projection=512) for sums in (few, many)]
    assert chosen[0] > chosen[1]


def test_they_travel_as_one_small_file(tmp_path: Path) -> None:
    statistics = shipped(whole())
    write_statistics(tmp_path / "s.safetensors", statistics)
    again = read_statistics(tmp_path / "s.safetensors")
    assert again.owners == ("convnext", "regnety", "resnet")
    for one, other in zip(statistics.sums, again.sums, strict=True):
        assert (one.owner, one.classes, one.blocks) == (other.owner, other.classes, other.blocks)
        assert torch.equal(one.second, other.second)
        assert torch.equal(one.by_class, other.by_class)
    size = (tmp_path / "s.safetensors").stat().st_size
    assert statistics.num_bytes < size < statistics.num_bytes + 4000
    content = bytearray((tmp_path / "s.safetensors").read_bytes())
    content[-20] ^= 1
    (tmp_path / "s.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"s.safetensors: damaged: its sums differ"):
        read_statistics(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "sums",
    [
        "5",
        "null",
        '{"owner": "a"}',
        '[{"owner": "a", "classes": ["0"], "blocks": [["x", -3], ["y", 4]]}]',
        '[{"owner": null, "classes": ["0"], "blocks": [["x", 1]]}]',
        '[{"owner": "a", "classes": "0", "blocks": [["x", 1]]}]',
        '[{"owner": "a", "classes": ["0"], "blocks": [["x"]]}]',
    ],
)
def test_sums_that_say_what_cannot_be_are_refused_in_one_line(tmp_path: Path, sums: str) -> None:
    sizes = {"counts": (1,), "by_class": (1, 1), "second": (1,)}
    tensors = {f"0.{name}": torch.ones(size, dtype=torch.float64) for name, size in sizes.items()}
    save_file(tensors, tmp_path / "s.safetensors", {"format": FORMAT, "sums": sums, "tensors": digest(tensors)})
    with pytest.raises(UserError, match=r"s\.safetensors: statistics that cannot be"):
        read_statistics(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        lambda sums: {"second": -sums.second},
        lambda sums: {"second": torch.zeros_like(sums.second)},
        lambda sums: {"counts": sums.counts + 0.5},
        lambda sums: {"owner": ""},
    ],
    ids=["negative", "less than the means differ", "half images", "nameless"],
)
def test_sums_that_no_images_have_are_refused(changes: Callable[[Sums], dict], tmp_path: Path) -> None:
    (*others, sums) = shipped(whole()).sums
    write_statistics(tmp_path / "s.safetensors", Statistics((*others, replace(sums, **changes(sums)))))
    with pytest.raises(UserError, match=r"s\.safetensors: statistics that cannot be"):
        read_statistics(tmp_path / "s.safetensors")


def test_sums_behind_another_projection_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = whole()
    monkeypatch.setattr(statistics_module, "SEED", 7)
    other = shipped(found)
    monkeypatch.undo()
    with pytest.raises(UserError, match="are not of this network's features"):
        solve_from_statistics(found, other, **OPTIONS)


def test_what_cannot_be_solved_is_refused() -> None:
    found, statistics = whole(), shipped(whole())
    with pytest.raises(UserError, match="no statistics of the classes d, e"):
        solve_from_statistics(found, statistics.without("regnety"), **OPTIONS)
    with pytest.raises(UserError, match="statistics of 'convnext' are not of this network's features"):
        solve_from_statistics(whole(position=2), statistics, **OPTIONS)
    with pytest.raises(UserError, match="statistics of 'resnet' are there already"):
        statistics.with_sums(statistics.sums[-1])
    with pytest.raises(UserError, match="no statistics of 'nobody'; there are those of convnext, regnety, resnet"):
        statistics.without("nobody")
    with pytest.raises(UserError, match="which this network has not all"):
        solve_from_statistics(found.without("regnety"), statistics, **OPTIONS)
    empty = Samples(torch.zeros(0, 1, 32, 32), torch.zeros(0, dtype=torch.long))
    with pytest.raises(UserError, match="'me' has no images"):
        owner_sums(found, [empty], "me", projection=4)
    with pytest.raises(UserError, match=r"'me' has images of shape \[4, 3, 32, 32\]: '.*' takes \(n, 1, H, W\)"):
        owner_sums(found, [Samples(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))], "me", projection=4)
    with pytest.raises(UserError, match="'me' has labels from 0 to 9"):
        owner_sums(found, [Samples(torch.zeros(4, 1, 32, 32), torch.tensor([0, 1, 2, 9]))], "me", projection=4)
    again = replace(statistics.sums[-1], owner="another")
    with pytest.raises(UserError, match="statistics of 'another' are those of 'resnet' again"):
        statistics.with_sums(again)
    for wrong in ({"projection": -3}, {"projection": 64.0}, {"ridge": 0}, {"ridge": -1.0}, {"ridge": math.nan}):
        with pytest.raises(UserError, match=f"correction.{next(iter(wrong))}="):
            solve_from_statistics(found, statistics, **{**OPTIONS, **wrong})
    huge = tuple(replace(sums, second=sums.second * 1e300) for sums in statistics.sums)
    with pytest.raises(UserError, match="no head can be solved from"):
        solve_from_statistics(found, Statistics(huge), **OPTIONS)
