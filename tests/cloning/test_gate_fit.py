from __future__ import annotations

import pytest
import torch
from cloning_stand_ins import chain, images, network
from torch.nn import functional as F

from cloning.evidence import SourceEvidence, whole_graft
from cloning.gate_fit import MOST_LOGIT, _Pool, _Use, fitted_scores
from cloning.gates import num_gates
from cloning.localise import localise
from cloning.samples import Samples
from cloning.settings import LocalisationSettings, Share
from cloning.sites import find_sites
from zoo.digests import digest

SETTINGS = LocalisationSettings(num_steps=3, batch_size=8, num_neighbours=3, num_images=2)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
"""Of a target's a, b and c, and of d, which a source of c, d and e gives."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def graft(labels: torch.Tensor = LABELS):
    source, samples = network("regnety", "cde"), Samples(images(len(labels)), labels)
    return source, whole_graft(network("resnet", "abc"), [(source, "d")], 0, "abc", samples)


def evidence() -> SourceEvidence:
    source, use = graft()
    is_cloned = LABELS == 3
    shares = torch.ones(num_gates(source.sites)) / num_gates(source.sites)
    return SourceEvidence(
        source.chain.network,
        source.sites,
        use.samples.images[is_cloned],
        torch.ones(3).long(),
        source.black,
        SETTINGS,
        use.samples.images[~is_cloned],
        shares,
        (Share(0.6), Share(0.3)),
        graft=use,
    )


def test_without_images_of_the_target_there_is_no_use_to_fit_to() -> None:
    assert graft(torch.full((4,), 3))[1] is None


def test_a_module_is_fitted_beside_the_other_sources() -> None:
    given = [(network("regnety", "cde"), "d"), (network("convnext", "efc"), "ef")]
    labels = torch.tensor([0, 1, 2, 3, 3, 4, 5, 5])  # of a, b, c, d, e, f
    use = whole_graft(network("resnet", "abc"), given, 1, "abc", Samples(images(8), labels))
    assert use.is_cloned.tolist() == [False] * 5 + [True] * 3
    features = use.network.forward_features(use.samples.images)
    alone = given[1][0].features(use.samples.images)
    assert torch.equal(features[:, use.columns], alone)
    assert use.columns.stop == features.shape[1]


def test_few_samples_of_each_class_are_taken() -> None:
    pool = _Pool(evidence(), generator())
    rows = pool.labels[:: SETTINGS.num_neighbours]
    assert torch.bincount(rows).tolist() == [2, 2, 2, 2]
    assert torch.equal(pool.is_inside, pool.labels == 3)
    drawn = pool.draw(400, generator())
    assert pool.is_inside[drawn].sum() == 100  # a quarter at least, here one class of four
    counts = torch.bincount(pool.labels[drawn], minlength=4)[:3]
    assert counts.min() > 70


def test_with_the_whole_source_nothing_is_left_to_learn_but_the_labels() -> None:
    pool = _Pool(evidence(), generator())
    use = _Use(pool, pool.graft)
    index = torch.arange(len(pool.labels))
    features = pool.graft.network.forward_features(pool.neighbours(index))
    labelled = F.cross_entropy(F.linear(features, *use.head), pool.labels)
    torch.testing.assert_close(use.loss(index, features[:, pool.graft.columns]), labelled)
    assert use.loss(index, torch.zeros_like(features[:, pool.graft.columns])) > labelled


def test_what_is_grafted_changes_the_gates_and_no_network() -> None:
    seen = evidence()
    target, source = seen.graft.network.target, seen.graft.network.clones[0].source
    before = digest(target.chain.network), digest(source.chain.network), digest(seen.graft.network)
    found, again = fitted_scores(seen, generator()), fitted_scores(seen, generator())
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert all(scores.abs().max() <= MOST_LOGIT for scores in found)
    assert before == (digest(target.chain.network), digest(source.chain.network), digest(seen.graft.network))
    assert all(parameter.grad is None for parameter in source.chain.network.parameters())
    alone = localise(
        *(source.chain, source.sites, seen.images, seen.labels, SETTINGS),
        black=source.black,
        seed=0,
        others=seen.others,
    )
    assert not torch.equal(alone[0].scores, found[0])


@pytest.mark.parametrize("name", ["lime", "direct"])
def test_a_smaller_share_goes_on_from_a_larger_one(name: str) -> None:
    source = chain("resnet")
    sites = find_sites(source)
    found = localise(
        *(source, sites, images(4), torch.arange(4), LocalisationSettings(name, num_steps=25, batch_size=8)),
        black=torch.tensor([-1.0]),
        seed=0,
    )
    shares = [torch.sigmoid(5 * one.scores).mean().item() for one in found]
    for one, share in zip(found, shares, strict=True):
        assert share < one.share.keep + 0.1  # settled gates close, too
