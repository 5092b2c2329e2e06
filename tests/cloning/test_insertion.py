from __future__ import annotations

import pytest
import torch
from cloning_stand_ins import small_zoo

from cloning import insertion
from cloning.choice import PositionResult
from cloning.clone import Clone, num_positions
from cloning.fitting import fit_adapter, network_features, solve_network_head, solve_taught_head
from cloning.frozen import FrozenNetworks
from cloning.gates import num_gates
from cloning.head import balanced_cross_entropy, class_weights
from cloning.insertion import search_position
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from cloning.settings import InsertionSettings, Share

NETWORKS = FrozenNetworks(small_zoo())
TARGET, SOURCE = NETWORKS("low"), NETWORKS("high")
MODULE = Clone(SOURCE, ("d",), (torch.arange(num_gates(SOURCE.sites)) % 3 > 0).float(), 0)


def samples(seed: int, count: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(count, 1, 32, 32, generator=generator), torch.arange(count) % 4)


TRAIN, VAL = samples(0), samples(1)


def test_a_teacher_that_does_harm_on_validation_is_not_followed() -> None:
    plain, taught = (ClonedNetwork(TARGET, list("abcd"), [MODULE], [None]) for _ in range(2))
    solve_network_head(plain, [TRAIN])
    assert not solve_taught_head(taught, [TRAIN], VAL)  # noise, of which whatever is learnt is wrong
    assert torch.equal(taught.head.weight, plain.head.weight)


def search(settings: InsertionSettings, **options: bool) -> list[PositionResult]:
    return search_position(TARGET, {Share(0.7): MODULE}, "abc", TRAIN, VAL, settings, seed=0, **options)


@pytest.mark.parametrize("held", [2**29, 0], ids=["kept", "from the image"])
def test_what_is_compared_is_the_network_that_is_built(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insertion, "MAX_HELD_BYTES", held)
    monkeypatch.setattr(insertion, "PROMISING", 0.0)  # no short tuning
    rows = {row.position: row for row in search(InsertionSettings("search"))}
    assert list(rows) == list(range(num_positions(TARGET) - 1, -1, -1))
    for position in (2, num_positions(TARGET) - 1):
        clone = Clone(SOURCE, ("d",), MODULE.gates, position)
        fit = fit_adapter(TARGET, clone, TRAIN.images, kernel_size=1)
        network = ClonedNetwork(TARGET, list("abcd"), [clone], [fit.adapter])
        solve_network_head(network, [TRAIN])
        with torch.no_grad():
            logits = network.head(network_features(network, VAL.images))
        loss = balanced_cross_entropy(logits, VAL.labels, class_weights(VAL.labels, 4)).item()
        assert rows[position].loss == pytest.approx(loss, rel=0.02)


def test_a_short_tuning_never_makes_a_position_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = InsertionSettings("search", num_epochs=1, learning_rate=0.5)
    monkeypatch.setattr(insertion, "PROMISING", 0.0)
    closed = search(settings)
    monkeypatch.setattr(insertion, "PROMISING", 1e9)
    tuned = search(settings)
    assert all(b.loss <= a.loss for a, b in zip(closed, tuned, strict=True))


def test_the_search_for_the_cheapest_ends_far_from_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insertion, "PROMISING", 1e-9)  # nothing is near
    some = [row.position for row in search(InsertionSettings("tolerance"))]
    assert some == [insertion.PATIENCE, *range(insertion.PATIENCE - 1, -1, -1)]
    every = list(range(num_positions(TARGET) - 1, -1, -1))
    assert [row.position for row in search(InsertionSettings("tolerance"), is_limited=True)] == every
