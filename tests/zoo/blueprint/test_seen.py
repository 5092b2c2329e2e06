from __future__ import annotations

import pytest
import torch

from zoo.blueprint.seen import MAX_SAMPLE, SeenImages, from_json, to_json
from zoo.errors import UserError


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2**63 - 1, (n,), generator=torch.Generator().manual_seed(seed))


def test_the_digest_of_a_class_counts_its_images_and_nothing_else():
    found, labels = keys(12), torch.tensor([0, 1, 2] * 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    first = SeenImages.of("a", ["x", "y", "z"], labels, found, torch.arange(6))
    renumbered = SeenImages.of("b", ["z", "x"], torch.tensor([1, -1, 0])[labels[order]], found[order], torch.arange(2))
    assert renumbered.classes == {name: first.classes[name] for name in ("z", "x")}
    found[4] += 1  # an image of y
    changed = SeenImages.of("a", ["x", "y", "z"], labels, found, torch.arange(6))
    assert [changed.classes[name] == first.classes[name] for name in ("x", "y", "z")] == [True, False, True]


@pytest.mark.parametrize(("num_train", "tolerance"), [(100, 0), (20_000, 0.05)])
def test_the_share_of_images_seen_before_is_exact_for_few_and_estimated_for_many(num_train, tolerance):
    found = keys(2 * num_train)
    seen = SeenImages.of("a", ["x"], torch.zeros(len(found), dtype=torch.int64), found, torch.arange(num_train))
    assert len(seen.sample) == min(num_train, MAX_SAMPLE)
    other = found[num_train // 2 : num_train // 2 + num_train]
    assert seen.share_of(other) == pytest.approx(0.5, abs=tolerance)
    assert seen.share_of(found[num_train:]) == 0
    assert seen.share_of(found[:0]) == 0


def test_records_survive_as_text_and_other_text_is_refused():
    seen = (SeenImages("a", {"x": "0f"}, (1, 2)), SeenImages("b", {}, ()))
    assert from_json(to_json(seen), "weights") == seen
    for text, told in (("{}", "no list"), ('[{"name": 1}]', "weights: "), ("[", "weights: not readable as JSON")):
        with pytest.raises(UserError, match=told):
            from_json(text, "weights")
