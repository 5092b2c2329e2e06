from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import clone, cloned, images, network

from cloning.choice import PositionResult
from cloning.figures import gates_figure, locality_figure, positions_figure
from cloning.measures import (
    conditional_similarities,
    kept_per_layer,
    measure_accuracies,
    measure_locality,
    random_like,
    require_restored,
    size_share,
)
from cloning.samples import Samples
from zoo.errors import UserError


def test_similarity_is_the_cosine_of_centred_logits() -> None:
    source, x = network("vit", "56789"), images(5)
    c = clone(source, "5", share=0.5)
    masked, whole = source.logits(x, gates=c.gates).detach(), source.logits(x).detach()
    cosines = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(masked.double(), whole.double(), strict=True)]
    found = conditional_similarities(c, {"x": x, "half": x[: len(x) // 2]})
    assert found["x"] == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-6)
    assert found["half"] == pytest.approx(torch.stack(cosines[: len(x) // 2]).mean().item(), abs=1e-6)
    assert conditional_similarities(replace(c, gates=torch.ones_like(c.gates)), {"x": x})["x"] == pytest.approx(1)


def test_features_that_are_not_selected_count_as_zeros() -> None:
    source, x = network("vit", "56789"), images(5)
    c = clone(source, "5", share=0.5, num_selected=9)
    assert c.num_features == 9
    features = source.features(x, gates=c.gates).detach()
    rest = [k for k in range(source.num_features) if k not in c.selected.tolist()]
    assert torch.equal(c.select(features), features[:, c.selected])
    features[:, rest] = 0
    masked, whole = source.classify(features), source.logits(x).detach()
    torch.testing.assert_close(c.classify(features[:, c.selected]), masked)
    cosines = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(masked.double(), whole.double(), strict=True)]
    assert conditional_similarities(c, {"x": x})["x"] == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-5)


def test_locality_averages_over_classes_and_has_a_control() -> None:
    source = network("resnet", "56789")
    c = clone(source, "59")
    by_class = {name: images(3, seed=int(name)) for name in "5789"} | {"6": images(0)}
    found = measure_locality(c, by_class, seed=0)
    assert set(found.classes) == set("5789")
    assert found.cloned == pytest.approx((found.classes["5"] + found.classes["9"]) / 2)
    assert found.random_other == pytest.approx((found.random_classes["7"] + found.random_classes["8"]) / 2)
    control = random_like(c, seed=0)
    assert not torch.equal(control.gates, c.gates)
    assert kept_per_layer(c) == kept_per_layer(control)
    assert control.selected is None
    few = random_like(clone(source, "59", num_selected=7), seed=0).selected
    assert few.unique().tolist() == few.tolist()
    assert len(few) == 7


def test_accuracies_weigh_classes_not_images() -> None:
    composed = cloned(network("resnet", "01234"), clone(network("vit", "56789"), "57"))
    x = images(40)
    labels = composed(x).argmax(1)
    labels[::4] = torch.arange(10) % 7  # some of every class
    found = measure_accuracies(composed, Samples(x, labels))
    right = composed(x).argmax(1) == labels
    expected = {
        name: right[labels == i].double().mean().item() for i, name in enumerate("0123457") if (labels == i).any()
    }
    assert {name: value for name, value in found.classes.items() if value is not None} == expected
    old = [expected[name] for name in "01234" if name in expected]
    assert found.original == pytest.approx(sum(old) / len(old))
    assert found.mean == pytest.approx((found.original + found.cloned) / 2)


def test_size_and_restoration() -> None:
    composed = cloned(network("resnet", "01234"), clone(network("vit", "56789"), "57", num_selected=9))
    travels, share = size_share(composed)
    gates = -(-len(composed.clones[0].gates) // 8)
    assert travels == gates + 24 // 8 + 4 * sum(p.numel() for p in composed.parameters())
    assert 0 < share < 1
    digests = {n.name: n.digest() for n in composed.networks()}
    assert require_restored(composed.networks(), digests) == digests
    with pytest.raises(UserError, match="the zoo's vit changed while cloning"):
        require_restored(composed.networks(), {**digests, "vit": "sha256:0"})


def test_figures_are_drawn(tmp_path: Path) -> None:
    c = clone(network("mixer", "56789"), "5")
    rows = [PositionResult("mixer", r, r, 1.0 / (r + 1), 0.9, 0.8, 10, 1, 0.1) for r in (2, 1, 0)]
    rows[0] = replace(rows[0], val_original=None)
    locality = measure_locality(c, {"5": images(2), "6": images(2)}, seed=0)
    paths = [
        positions_figure(tmp_path / "a.png", rows, {"mixer": 1}),
        positions_figure(tmp_path / "b.png", rows[:1], {"mixer": 2}),
        gates_figure(tmp_path / "c.png", {"mixer": kept_per_layer(c)}),
        locality_figure(tmp_path / "d.png", [locality, locality]),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert all("</svg>" in path.with_suffix(".svg").read_text() for path in paths)
