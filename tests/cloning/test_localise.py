from __future__ import annotations

import copy

import pytest
import torch
from cloning_stand_ins import chain, images, network
from torch.nn import functional as F

from cloning.gate_fit import module_loss, shuffled_pieces, strange_images
from cloning.gates import gated, hard_gates, num_gates, split_gates
from cloning.localise import localise, tries
from cloning.settings import LocalisationSettings
from cloning.sites import find_sites
from zoo.digests import digest
from zoo.errors import UserError

BLACK = torch.tensor([-1.0])


def find(family: str, seed: int = 0, **settings: object):
    source = chain(family)
    settings = LocalisationSettings(num_steps=4, batch_size=8, num_neighbours=6, **settings)
    return localise(source, find_sites(source), images(5), torch.arange(5), settings, black=BLACK, seed=seed)[0]


@pytest.mark.parametrize("name", ["lime", "direct", "taylor", "magnitude", "random", "none"])
def test_every_localiser_keeps_what_it_is_told_and_leaves_the_source_alone(name: str) -> None:
    source = chain("resnet")
    before = digest(source.network)
    found = find("resnet", name=name, keep=0.6)
    n = num_gates(find_sites(source))
    assert found.gates.sum() == (n if name == "none" else round(0.6 * n))
    assert torch.equal(found.gates, find("resnet", name=name, keep=0.6).gates)
    assert digest(source.network) == before
    assert all(parameter.grad is None for parameter in source.network.parameters())


@pytest.mark.parametrize("name", ["lime", "taylor", "magnitude"])
def test_a_source_that_gives_nan_is_named_instead_of_localised(name: str) -> None:
    source, settings = copy.deepcopy(chain("resnet")), LocalisationSettings(name, num_steps=1, num_neighbours=3)
    with torch.no_grad():
        next(source.block(2, 3).parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="'resnet': the scores of its gates are not finite"):
        localise(source, find_sites(source), images(5), torch.arange(5), settings, black=BLACK, seed=0)


def test_more_open_gates_than_asked_for_are_told(caplog: pytest.LogCaptureFixture) -> None:
    found = find("vit", name="random", keep=0.01)
    assert f"localisation.min_per_layer=2 keeps {int(found.gates.sum())} of" in caplog.text
    assert "more than localisation.keep=0.01" in caplog.text


def test_another_seed_draws_another_random_mask() -> None:
    assert not torch.equal(find("vit", name="random").gates, find("vit", name="random", seed=1).gates)


def test_hard_gates_are_the_best_of_all_with_some_in_every_layer() -> None:
    sites = find_sites(chain("vit"))
    scores = torch.rand(num_gates(sites), generator=torch.Generator().manual_seed(0))
    split_gates(scores, sites)[-1].sub_(5)  # the last layer is worse than all others
    gates = hard_gates(scores, sites, 0.4, 2)
    assert gates.sum() == round(0.4 * len(scores))
    layers = split_gates(gates, sites)
    assert all(part.sum() >= 2 for part in layers)
    assert layers[-1].sum() == 2
    assert (
        split_gates(scores, sites)[-1][layers[-1] == 0].max() <= split_gates(scores, sites)[-1][layers[-1] == 1].min()
    )
    assert hard_gates(scores, sites, 1.0, 2).all()
    above = split_gates(hard_gates(scores, sites, 1.0, 2, above=0.5), sites)
    for part, given in zip(above[:-1], split_gates(scores, sites), strict=False):
        assert part.sum() == max(2, (given > 0.5).sum())
    assert above[-1].sum() == 2


def test_shares_are_of_the_macs_where_they_are_known() -> None:
    source = network("regnety", "abcde")
    shares = source.gate_macs / source.gate_macs.sum()
    assert len(set(shares.tolist())) > 3  # layers differ
    settings = LocalisationSettings(num_steps=3, batch_size=8, num_neighbours=4, min_per_layer=1)
    found = localise(
        *(source.chain, source.sites, images(5), torch.arange(5), settings),
        black=BLACK,
        seed=0,
        others=images(3, seed=1),
        macs=source.gate_macs,
    )
    assert tuple(one.share for one in found) == tries(settings)
    assert [one.share.keep for one in found] == [0.59, 0.45]
    for one in found:
        share = (shares * one.gates).sum()
        assert one.share.keep - shares.max() < share <= one.share.keep + 1e-6
    sizes = [source.slim(one.gates, 0).costs.macs for one in found]
    assert sizes[1] < sizes[0]


def test_shuffled_pieces_are_the_pieces_elsewhere() -> None:
    x = images(3)
    found = shuffled_pieces(x, torch.Generator().manual_seed(0))
    assert not torch.equal(found, x)
    blocks = [set(map(tuple, y[0].unfold(1, 8, 8).unfold(2, 8, 8).reshape(-1, 64).tolist())) for y in (x, found)]
    assert blocks[0] == blocks[1]


def test_strange_images_are_made_of_the_given_ones() -> None:
    x = images(6)
    shuffled, quarters, down, mirrored = strange_images(x, torch.Generator().manual_seed(0))
    assert shuffled.shape == x.shape
    assert torch.equal(down.flip(2), x)
    assert torch.equal(mirrored.flip(3), x)
    half, seen = x.shape[2] // 2, set()
    for made in quarters:
        owners = [
            [bool(torch.equal(made[:, rows, columns], one[:, rows, columns])) for one in x].index(True)
            for rows in (slice(half), slice(half, None))
            for columns in (slice(half), slice(half, None))
        ]
        seen.add(tuple(owners))
    assert len(seen) == len(x)
    assert any(len(set(owners)) > 2 for owners in seen)


def test_module_loss_gradient_against_finite_differences() -> None:
    source = chain("regnety")
    body, sites = copy.deepcopy(source.network).double(), find_sites(source)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(num_gates(sites), generator=generator).requires_grad_()
    x, wanted, proximity = images(4), torch.randn(4, 5, generator=generator), torch.rand(4, generator=generator)

    def loss(values: torch.Tensor) -> torch.Tensor:
        with gated(body, sites, torch.sigmoid(2 * values)):
            return module_loss(body(x), wanted, proximity, torch.tensor(1.3))

    x, wanted, proximity, logits = x.double(), wanted.double(), proximity.double(), logits.detach().double()
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_()), logits)
    step = torch.randn(len(logits), generator=generator, dtype=torch.float64) * 1e-6
    with torch.no_grad():
        slope = (loss(logits + step) - loss(logits - step)) / 2
    torch.testing.assert_close(gradient @ step, slope, rtol=1e-4, atol=1e-12)


def test_taylor_scores_are_the_effect_of_closing_a_gate_a_little() -> None:
    source = chain("resnet")
    body, sites, x = copy.deepcopy(source.network).double(), find_sites(source), images(5).double()

    def losses(gates: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), gated(body, sites, gates):
            return F.cross_entropy(body(x), torch.arange(5), reduction="none")

    open_gates = torch.ones(num_gates(sites), dtype=torch.float64)
    effects = []
    for gate in range(sites[0].num_gates):
        step = torch.zeros_like(open_gates)
        step[gate] = 1e-6
        effects.append(((losses(open_gates + step) - losses(open_gates - step)) / 2e-6).abs().sum())
    expected = torch.stack(effects) / torch.stack(effects).norm()
    scores = split_gates(find("resnet", name="taylor").scores, sites)[0]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-5)


def test_a_source_without_gates_or_without_images_is_refused() -> None:
    source = chain("resnet")
    sites, settings = find_sites(source), LocalisationSettings()
    with pytest.raises(UserError, match="no unit that a gate"):
        localise(source, (), images(2), torch.zeros(2).long(), settings, black=BLACK, seed=0)
    with pytest.raises(UserError, match="no image of the cloned classes"):
        localise(source, sites, images(0), torch.zeros(0).long(), settings, black=BLACK, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, r"localisation.keep=0.0 is out of range; allowed: above 0, at most 1"),
        ({"keep": 1.5}, r"localisation.keep=1.5"),
        ({"name": "lim"}, "allowed are lime, direct"),
    ],
)
def test_bad_settings_name_their_override(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalisationSettings(**settings)
