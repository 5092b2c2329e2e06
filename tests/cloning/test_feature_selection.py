from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import clone, images, network, small_data, small_zoo
from torch import Tensor
from torch.nn import functional as F

from cloning import feature_selection
from cloning.choice import LEAST_CLONED, MOST_OTHER
from cloning.feature_selection import MOST_ALIKE, local_features, select_features
from cloning.measures import added_costs, centred_cosine
from cloning.pipeline import CloningSearch
from cloning.settings import (
    CloningSettings,
    CorrectionSettings,
    InsertionSettings,
    LocalisationSettings,
    TaskSettings,
)
from zoo.storage.store import Store


def problem(num_features: int, seed: int, num_classes: int = 4, n: int = 40) -> tuple[Tensor, ...]:
    """Features that say which of some classes an image is of; the first half of the classes is cloned."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, num_features, generator=generator)
    features = centres[labels] + 0.3 * torch.randn(n, num_features, generator=generator)
    weight, bias = centres - centres.mean(0), 0.1 * torch.randn(num_classes, generator=generator)
    is_cloned = labels < num_classes // 2
    sides = torch.stack([is_cloned / is_cloned.sum(), ~is_cloned / (~is_cloned).sum()])
    return features, F.linear(features, weight, bias), weight, bias, sides


def similarities(given: tuple[Tensor, ...], selected: list[int] | Tensor) -> tuple[float, float]:
    features, wanted, weight, bias, sides = given
    logits = F.linear(features[:, selected], weight[:, selected], bias)
    return tuple((sides @ centred_cosine(logits, wanted)).tolist())


def worth(given: tuple[Tensor, ...], selected: list[int] | Tensor, contrast: float) -> float:
    cloned, other = similarities(given, selected)
    return 1 - cloned + contrast * max(0.0, other - MOST_ALIKE)


@pytest.mark.parametrize("seed", range(8))
def test_one_feature_goes_after_the_other_each_the_one_that_is_worth_least(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same by brute force, and the set that is left against all sets of its size."""
    given, contrast, left = problem(12, seed), 2.0, list(range(12))
    monkeypatch.setattr(feature_selection, "MARGIN", 0.0)
    while True:
        cloned, other = similarities(given, left)
        if cloned >= LEAST_CLONED and other <= MOST_OTHER:
            break
        if len(left) == 1:
            left = None
            break
        left = min((left[:k] + left[k + 1 :] for k in range(len(left))), key=lambda rest: worth(given, rest, contrast))
    found = local_features(*given, contrast)
    assert (None if found is None else found.tolist()) == left
    if left is None:
        return
    values = sorted(worth(given, list(chosen), contrast) for chosen in itertools.combinations(range(12), len(left)))
    assert worth(given, left, contrast) <= values[len(values) // 20]
    bigger = [list(chosen) for chosen in itertools.combinations(range(12), len(left) + 1)]
    local = [similarities(given, chosen) for chosen in bigger]
    assert sum(cloned >= LEAST_CLONED and other <= MOST_OTHER for cloned, other in local) <= len(local) // 20


def test_features_of_the_cloned_classes_are_found_where_they_are_apart() -> None:
    labels = torch.arange(60) % 6
    centres = torch.zeros(6, 24)
    for label in range(6):
        centres[label, 4 * label : 4 * label + 4] = 1.0
    features = centres[labels] + 0.05 * torch.rand(60, 24, generator=torch.Generator().manual_seed(0))
    weight, is_cloned = 3 * centres - 0.5, labels < 3
    sides = torch.stack([is_cloned / 30, ~is_cloned / 30])
    given = features, F.linear(features, weight), weight, torch.zeros(6), sides
    assert similarities(given, list(range(24)))[1] > 0.99
    found = local_features(*given, 2.0)
    assert 0 < len(found) < 24
    cloned, other = similarities(given, found)
    assert cloned >= LEAST_CLONED
    assert other <= MOST_OTHER
    assert sum(k < 12 for k in found.tolist()) > len(found) / 2
    assert local_features(*given, 0.0) is None or similarities(given, local_features(*given, 0.0))[1] <= MOST_OTHER


def test_features_go_some_at_once_where_there_are_many() -> None:
    given = problem(400, 0)
    found = local_features(*given, 2.0)
    assert found.tolist() == sorted(set(found.tolist()))
    cloned, other = similarities(given, found)
    assert cloned >= LEAST_CLONED
    assert other <= MOST_OTHER


def test_a_module_is_left_as_it_is_where_nothing_is_known_of_one_side() -> None:
    module = clone(network("convnext", "56789"), "57")
    for names in ("57", "689", ""):
        known = {name: images(4, seed=int(name)) for name in names}
        assert select_features(module, known, 2.0) is module
    assert select_features(module, {"5": images(4), "6": images(0)}, 2.0) is module


@pytest.mark.parametrize("exemplars", [3, 0])
def test_a_search_finds_them_once_and_counts_what_it_adds(
    exemplars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = torch.tensor([1, 4, 50])
    monkeypatch.setattr(feature_selection, "local_features", lambda *given: selected.clone())
    settings = CloningSettings(
        TaskSettings(tuple("abcde")),
        LocalisationSettings(num_steps=2, batch_size=4, num_neighbours=4, num_images=6),
        InsertionSettings("fixed", position=2, num_epochs=1),
        CorrectionSettings(fraction=0.5, exemplars=exemplars),
    )
    zoo, data = small_zoo(), small_data("abcde")
    job = CloningSearch(zoo, data, settings, store=Store(tmp_path), seed=0)
    found = job.run()
    network = job.build(found.blueprint)
    (module,), (chosen,) = network.clones, found.chosen
    if exemplars:
        assert torch.equal(module.selected, selected)
        assert network.head.in_features == network.num_target_features + 3
    else:  # nothing is known of the target's classes
        assert module.selected is None
    assert chosen.num_features == module.num_features
    (added,) = added_costs(network)
    assert (added.num_params, added.macs) == (chosen.added_params, chosen.added_macs)
    (locality,) = job.localities(network, "val")
    assert locality.cloned == pytest.approx(chosen.sim_cloned, abs=1e-4)
    again = CloningSearch(zoo, data, settings, store=Store(tmp_path), seed=0)
    assert again.run().blueprint == found.blueprint
    assert not again.store.misses
