from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.tuning.tuning_stand_ins import StandIn
from tuning.heads import HeadRows, join_rows, match_rows, replace_head

LEARNT = {"ant": "1", "bee": "2", "cat": "3"}


@pytest.mark.parametrize(
    ("new", "wanted", "kept", "changed", "told"),
    [
        (["ant", "bee", "cat"], LEARNT, {0: 0, 1: 1, 2: 2}, (), "all 3 rows kept: the same classes of the same data"),
        (["cat", "ant", "bee"], LEARNT, {0: 2, 1: 0, 2: 1}, (), "3 of 3 rows kept (kept: cat, ant, bee)"),
        (["bee", "cat"], LEARNT, {0: 1, 1: 2}, (), "2 of 2 rows kept (kept: bee, cat)"),
        (["ant", "dog", "cat"], {**LEARNT, "dog": "4"}, {0: 0, 2: 2}, (), "(kept: ant, cat; made anew: dog)"),
        (["Ant", "bee"], {"Ant": "1", "bee": "2"}, {1: 1}, (), "1 of 2 rows kept (kept: bee; made anew: Ant)"),
        (["ant", "bee"], {"ant": "1", "bee": "5"}, {0: 0}, (1,), "(kept: ant; made anew, on other images: bee)"),
        ([str(i) for i in range(9)], {str(i): "9" for i in range(9)}, {}, (), "anew: 0, 1, 2, 3, 4, 5 and 3 more)"),
    ],
)
def test_rows_are_matched_by_name_and_images(new, wanted, kept, changed, told):
    rows = match_rows(list(LEARNT), new, LEARNT, wanted)
    assert (rows.kept, rows.changed) == (kept, changed)
    assert told in str(rows)
    assert rows.are_learnt == (len(kept) == len(new))
    assert rows.is_whole == (list(new) == list(LEARNT))


def test_a_head_of_unknown_classes_keeps_no_row():
    assert match_rows(None, ["ant"], LEARNT, LEARNT).kept == {}


def test_a_new_head_holds_kept_rows_bit_for_bit_and_draws_the_others():
    network, generator = StandIn(), torch.Generator().manual_seed(0)
    old = network.head
    rows = HeadRows(("d", "a", "b"), {1: 0, 2: 1}, (), is_whole=False)
    replace_head(network, rows, generator)
    assert torch.equal(network.head.weight[1:], old.weight[:2])
    assert torch.equal(network.head.bias[1:], old.bias[:2])
    assert not torch.isin(network.head.weight[0], old.weight).any()
    assert network.class_names == ("d", "a", "b")
    whole = network.head
    replace_head(network, HeadRows(("d", "a", "b"), {0: 0, 1: 1, 2: 2}, (), is_whole=True), generator)
    assert network.head is whole


def test_rows_made_anew_are_brought_to_the_scale_of_those_that_are_kept():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    features = 2 * F.one_hot(labels, 4) + torch.randn(400, 4, generator=generator)
    head = torch.nn.Linear(4, 4)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
        head.bias.copy_(torch.tensor([0.0, 0, 0, 9.0]))  # solved by another measure: class 3 would always win
    kept = 2 * torch.eye(4)[:3], torch.zeros(3)
    join_rows(head, [0, 1, 2], *kept, features, labels)
    assert torch.equal(head.weight[:3], kept[0])
    assert torch.equal(head.bias[:3], kept[1])
    assert head.weight[3, 3].item() == pytest.approx(2, rel=0.3)
    assert (head(features).argmax(1) == labels).float().mean() > 0.8
