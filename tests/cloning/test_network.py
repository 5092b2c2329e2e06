from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from cloning_stand_ins import adapter, as_if_tuned, chain, clone, cloned, images, network
from torch import Tensor

from cloning.clone import Clone, num_positions, source_position, spread_cuts
from cloning.frozen import FrozenNetwork
from cloning.gates import num_gates
from cloning.measures import added_costs, conditional_similarities, measure_costs
from cloning.network import ClonedNetwork
from tuning.parameter_groups import parameter_groups
from tuning.settings import OptimizerSettings
from zoo.chain.signals import pool
from zoo.conversion import convert
from zoo.entries import InputSpec
from zoo.errors import UserError

FAMILIES = ("resnet", "regnety", "convnext", "vit", "mixer", "swin")


@pytest.mark.parametrize(("receiver", "giver"), list(itertools.permutations(FAMILIES, 2)))
def test_any_family_gives_to_any_other_at_every_third_position(receiver: str, giver: str) -> None:
    target, source = network(receiver, "01234"), network(giver, "56789")
    x = images(2)
    old = target.logits(x)
    for position in {0, 1, num_positions(target) // 2, num_positions(target) - 1}:
        composed = cloned(target, clone(source, "57", position), head_cuts=(1, num_positions(target) - 1))
        logits = composed(x)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(logits[:, :5], old, rtol=1e-4, atol=1e-5)
        prefix, rest = composed.frozen_prefix("freeze")
        assert torch.equal(composed.head(rest(prefix(x))), logits)


def test_block_initialisation_is_exact() -> None:
    """Old logits are the target's, new ones the masked source's minus the mean over all its classes."""
    target, source = copy.copy(network("resnet", "01234")), network("regnety", "56789")
    c = clone(source, "68")
    composed, x = cloned(target, c), images(3)
    logits, old, new = composed(x), target.logits(x), source.logits(x, gates=c.gates)
    torch.testing.assert_close(logits[:, :5], old, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits[:, 5:], (new - new.mean(1, keepdim=True))[:, [1, 3]], rtol=1e-5, atol=1e-5)


def test_the_head_reads_of_a_module_the_features_that_are_selected() -> None:
    target, source, x = network("resnet", "01234"), network("regnety", "56789"), images(3)
    few = clone(source, "68", 1, num_selected=6)
    every = replace(few, selected=None)
    less = ClonedNetwork(target, list("0123468"), [few], [adapter(target, few)])
    more = ClonedNetwork(target, list("0123468"), [every], [*less.adapters])
    own, given = more.forward_features(x).split([target.num_features, source.num_features], dim=1)
    assert torch.equal(less.forward_features(x), torch.cat([own, given[:, few.selected]], dim=1))
    kept = torch.cat([torch.arange(target.num_features), target.num_features + few.selected])
    assert torch.equal(less.head.weight, more.head.weight[:, kept])
    (saved,) = [a.num_params - b.num_params for a, b in zip(added_costs(more), added_costs(less), strict=True)]
    assert saved == (source.num_features - 6) * 7
    assert torch.equal(less.standalone()(x), less(x))
    assert less.with_whole_sources().num_target_features + source.num_features == more.head.in_features


def test_a_source_of_one_output_gives_what_it_says_and_no_constant() -> None:
    target, source = copy.copy(network("resnet", "01234")), network("regnety", "5")
    c = clone(source, "5")
    composed, x = cloned(target, c), images(3)
    new = source.logits(x, gates=c.gates)
    torch.testing.assert_close(composed(x)[:, 5:], new, rtol=1e-5, atol=1e-5)
    assert new.std() > 0
    whole = conditional_similarities(replace(c, gates=torch.ones_like(c.gates)), {"5": x})
    assert whole == {"5": pytest.approx(1.0)}


@pytest.mark.parametrize("receiver", FAMILIES)
def test_the_head_reads_the_mean_features_of_the_target_at_the_cuts_that_it_is_told(receiver: str) -> None:
    target, source = network(receiver, "01234"), network("regnety" if receiver != "regnety" else "vit", "56789")
    last = num_positions(target) - 1
    grafts = clone(source, "6", 2), clone(source, "8")
    plain, wide = cloned(target, *grafts), cloned(target, *grafts, head_cuts=(1, last))
    wide.adapters.load_state_dict(plain.adapters.state_dict())
    x = images(3)
    features, found = plain.forward_features(x), wide.forward_features(x)
    means = [pool(target.features_at(cut, x), target.chain.signal(cut)) for cut in (1, last)]
    own = target.num_features
    expected = torch.cat([features[:, :own], *means, features[:, own:]], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(wide(x), plain(x))  # nothing is learnt of them yet
    columns = sum(mean.shape[1] for mean in means) * len(wide.classes)
    added = [sum(costs.macs for costs in added_costs(each)) for each in (wide, plain)]
    assert added[0] - added[1] == columns == measure_costs(wide).macs - measure_costs(plain).macs
    as_if_tuned(wide)
    assert not torch.allclose(wide(x), plain(x))
    standalone = wide.standalone()
    torch.testing.assert_close(standalone(x), wide(x))


def test_what_was_learnt_of_the_cuts_stays_while_clones_come_and_go() -> None:
    target, x = network("resnet", "01234"), images(3)
    first, second = clone(network("regnety", "56789"), "56"), clone(network("vit", "56789", seed=1), "7")
    wide = as_if_tuned(cloned(target, first, head_cuts=(2, 4)))
    grown = wide.with_clone(second)
    torch.testing.assert_close(grown(x)[:, :7], wide(x))
    assert torch.equal(grown.without(second.source.name)(x), wide(x))
    assert torch.equal(wide.without(first.source.name)(x), target.logits(x))


@pytest.mark.parametrize("cuts", [(0,), (2, 1), (1, 1), (99,), (-1,)])
def test_cuts_that_the_target_has_not_are_refused(cuts: tuple[int, ...]) -> None:
    target = network("resnet", "01234")
    with pytest.raises(UserError, match=r"head_cuts .* are not of 'resnet': expected different ones in order, of 1"):
        cloned(target, clone(network("vit", "56789"), "5"), head_cuts=cuts)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, ()), (1, (5,)), (2, (1, 5)), (3, (1, 3, 5)), (9, (1, 2, 3, 4, 5))]
)
def test_cuts_are_spread_evenly_from_the_stem_to_the_head(number: int, expected: tuple[int, ...]) -> None:
    target = network("resnet", "01234")
    assert len(target.chain) == 6
    assert spread_cuts(target, number) == expected


def test_classes_may_come_in_any_order_and_unwanted_ones_go() -> None:
    target, source = network("resnet", "01234"), network("vit", "56789")
    c = clone(source, "9")
    whole, some = cloned(target, c), ClonedNetwork(target, ["9", "3", "0"], [c], [None])
    x = images(2)
    torch.testing.assert_close(some(x), whole(x)[:, [5, 3, 0]])


def test_the_zoo_is_out_of_reach() -> None:
    target, source = network("resnet", "01234"), network("convnext", "56789")
    composed = cloned(target, clone(source, "5", 2))
    before = target.digest(), source.digest()
    names = {name.split(".")[0] for name in composed.state_dict()}
    assert names == {"adapters", "head"}
    composed.train()
    composed(images(2)).sum().backward()
    composed.double()
    assert not target.chain.network.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in target.chain.network.parameters())
    assert all(p.grad is None for p in source.chain.network.parameters())
    assert all(p.grad is not None for p in composed.adapters.parameters())
    assert (target.digest(), source.digest()) == before


def test_gradients_reach_the_adapter_through_the_frozen_source() -> None:
    composed = cloned(network("vit", "01234"), clone(network("resnet", "56789"), "5", 2))
    composed(images(2)).square().sum().backward()
    assert composed.adapters[0].projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_clones_come_and_go_in_any_order(order: tuple[int, ...]) -> None:
    target = network("resnet", "01234")
    clones = [
        clone(network("regnety", "56789"), "56", 2),
        clone(network("vit", "56789", seed=1), "7", 0, num_selected=9),
        clone(network("mixer", "56789", seed=2), "89", 1, num_selected=5),
    ]
    x, composed = images(2), ClonedNetwork(target, target.classes)
    assert torch.equal(composed(x), target.logits(x))
    for i in order:
        composed = composed.with_clone(clones[i], adapter(target, clones[i]))
    with torch.no_grad():  # as if tuned
        for parameter in composed.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    for number, i in enumerate(reversed(order)):
        smaller = composed.without(clones[i].source.name)
        if number < 2:
            kept = [name for name in composed.classes if name not in clones[i].classes]
            assert smaller.classes == tuple(kept)
            expected = restricted(composed, smaller, x)
            torch.testing.assert_close(smaller(x), expected, rtol=1e-4, atol=1e-5)
        composed = smaller
    assert torch.equal(composed(x), target.logits(x))


def restricted(composed: ClonedNetwork, smaller: ClonedNetwork, x: Tensor) -> Tensor:
    """The larger network's logits with the features of the lost clone at zero."""
    features = composed.forward_features(x)
    keep = torch.zeros(features.shape[1])
    columns = composed.columns()
    for owner in smaller.columns():
        keep[columns[owner]] = 1
    rows = [composed.classes.index(name) for name in smaller.classes]
    return composed.head(features * keep)[:, rows]


def test_full_tuning_changes_copies_only() -> None:
    target, source = network("resnet", "01234"), network("regnety", "56789")
    grafts = clone(source, "5", 1), clone(network("vit", "56789", seed=1), "6", 0, num_selected=9)
    composed = as_if_tuned(cloned(target, *grafts, head_cuts=(1, 3)))
    before = target.digest(), source.digest()
    x = images(4)
    full = composed.thawed()
    full.freeze("full")
    full.eval()
    torch.testing.assert_close(full(x), composed(x))
    rests = [measure_costs(each).macs - sum(part.macs for part in added_costs(each)) for each in (composed, full)]
    own_head = target.num_features * len(target.classes)  # which the copies leave out
    assert rests[0] - rests[1] == own_head
    full.train()
    full(x).square().sum().backward()
    copied = dict(full.copies.named_parameters())
    assert all(p.grad is not None for p in copied.values())
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.sub_(0.1 * parameter.grad)
    full.eval()
    assert not torch.allclose(full(x), composed(x))
    twin = copy.deepcopy(full)
    assert torch.equal(twin(x), full(x))
    with torch.no_grad():
        next(twin.copies[0].parameters()).zero_()
    assert not torch.equal(twin(x), full(x))
    assert (target.digest(), source.digest()) == before


def test_images_are_converted_between_networks() -> None:
    given = InputSpec(1, 8, 8, (0.5,), (0.25,))
    wanted = InputSpec(3, 8, 8, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    pixels = torch.rand(2, 1, 8, 8)
    colour = convert((pixels - 0.5) / 0.25, given, wanted)
    for channel in range(3):
        expected = (pixels[:, 0] - wanted.mean[channel]) / wanted.std[channel]
        torch.testing.assert_close(colour[:, channel], expected, rtol=1e-5, atol=1e-5)
    smaller = convert(images(2, size=8), given, InputSpec(1, 5, 7, (0.5,), (0.25,)))
    assert smaller.shape == (2, 1, 5, 7)


def test_positions_map_by_relative_depth() -> None:
    target, source = network("mixer", "01234"), network("regnety", "56789")
    ends = [source_position(target, source, r) for r in (0, 1, num_positions(target) - 1)]
    assert ends == [0, 1, num_positions(source) - 1]
    between = [source_position(target, source, r) for r in range(num_positions(target))]
    assert between == sorted(between)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": 99}, r"insertion.position=99 is outside of 'resnet'; allowed: 0"),
        ({"position": -1}, "insertion.position=-1"),
        ({"classes": "4"}, "cannot give the classes 4"),
    ],
)
def test_bad_clones_are_refused(arguments: dict, message: str) -> None:
    target, source = network("resnet", "01234"), network("vit", "56789")
    c = Clone(
        source, tuple(arguments.get("classes", "5")), torch.ones(num_gates(source.sites)), arguments.get("position", 0)
    )
    with pytest.raises(UserError, match=message):
        ClonedNetwork(target, ["0", *c.classes], [c], [None])


def test_owners_are_checked() -> None:
    target, other = network("resnet", "01234"), network("vit", "45678")
    c = clone(other, "5")
    for classes, clones, message in (
        (["0", "9", "5"], [c], "9 have no owner"),
        (["0", "0", "5"], [c], "0 are named twice"),
        (["0"], [c], "5 are cloned but not wanted"),
        (["0", "5"], [c, clone(other, "5")], "5 have two owners"),
    ):
        with pytest.raises(UserError, match=message):
            ClonedNetwork(target, classes, clones, [None] * len(clones))
    with pytest.raises(UserError, match="cannot give to itself"):
        ClonedNetwork(target, ["0"], [Clone(target, ("0",), torch.ones(num_gates(target.sites)), 0)], [None])


def test_a_head_without_a_last_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="5 outputs and 4 class names"):
        FrozenNetwork(chain("resnet"), "0123", network("resnet", "01234").input)


def test_copies_that_are_tuned_whole_learn_at_the_rates_of_their_own_chains() -> None:
    target, source = network("vit", "01234"), network("resnet", "56789")
    full = cloned(target, clone(source, "57", 2)).thawed()
    full.freeze("full")
    settings = OptimizerSettings(learning_rate=1.0, block_scale=0.5, layer_decay=0.5)
    groups = parameter_groups(full, settings)
    names = {id(parameter): name for name, parameter in full.named_parameters()}
    rates = {names[id(parameter)]: group.learning_rate for group in groups for parameter in group.parameters}
    assert rates.keys() == {name for name, parameter in full.named_parameters() if parameter.requires_grad}
    for name, rate in rates.items():
        part, index, original = name.split(".", 2) if name.startswith("copies") else (name.split(".")[0], "", "")
        if part == "copies":
            chain = (target, source)[int(index)].chain
            nodes = [
                node for node in range(len(chain)) if original in dict(chain.block(node, node + 1).named_parameters())
            ]
            assert rate == 0.5 * 0.5 ** (len(chain) - 1 - nodes[0]), name
        else:
            assert (part, rate) in {("adapters", 1.0), ("head", 1.0)}
