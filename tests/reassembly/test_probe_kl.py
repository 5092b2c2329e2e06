"""Similarity by the answers of linear probes, and the seams that it keeps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reassembly.features import NetworkFeatures
from reassembly.seams import seam_paths
from reassembly.settings import ProxySettings, SearchSettings, SimilaritySettings
from reassembly.shortlist import seam_shortlist
from reassembly.similarity import similarity_matrix
from reassembly.similarity.probe import RIDGES, TEMPERATURES, _answers, divergences
from zoo.blueprint import BlockSpec
from zoo.errors import UserError

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(60) % 3
SIGNAL = F.one_hot(LABELS, 3).float()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def similar(*features: Tensor) -> Tensor:
    return similarity_matrix(features, "probe_kl", labels=LABELS)


@pytest.mark.parametrize("width", [5, 90])
def test_answers_are_those_of_a_probe_that_was_fitted_without_the_image(width: int):
    x = torch.cat([SIGNAL + noise(60, 3), noise(60, width - 3)], 1)
    y = F.one_hot(LABELS, 3).double()
    scaled = x.double() - x.double().mean(0)
    mean_square = float(scaled.square().sum()) / min(width, 59)
    losses = {}
    for ridge in RIDGES:
        held_out = torch.zeros(60, 3, dtype=torch.float64)
        for i in range(60):
            rest = torch.arange(60) != i
            centre, target = scaled[rest].mean(0), y[rest].mean(0)
            a, b = scaled[rest] - centre, y[rest] - target
            weight = torch.linalg.solve(a.T @ a + ridge * mean_square * torch.eye(width), a.T @ b)
            held_out[i] = target + (scaled[i] - centre) @ weight
        for temperature in TEMPERATURES:
            logs = F.log_softmax(held_out / temperature, 1)
            losses[float(F.nll_loss(logs, LABELS))] = logs
    torch.testing.assert_close(_answers(x, LABELS, 3), losses[min(losses)].float(), atol=2e-3, rtol=0)


def test_the_matrix_is_the_mean_divergence_of_the_answers():
    features = [SIGNAL + noise(60, 3), SIGNAL[:, :2] + noise(60, 2), noise(60, 4)]
    logs = [_answers(x, LABELS, 3).double() for x in features]
    expected = torch.tensor([[F.kl_div(q, p, reduction="batchmean", log_target=True) for q in logs] for p in logs])
    found = similar(*features)
    torch.testing.assert_close(divergences(found), expected.clamp_min(0), atol=1e-5, rtol=0)
    assert not torch.allclose(found, found.T)
    assert ((found >= 0) & (found <= 1)).all()


def test_what_changes_no_answer_changes_no_similarity():
    x = SIGNAL.repeat(1, 2) + noise(60, 6)
    found = similar(x, 7 * x[:, torch.randperm(6, generator=GENERATOR)] - 3, noise(60, 6))
    torch.testing.assert_close(found[0, 1], torch.tensor(1.0, dtype=torch.float64))
    assert found[0, 2] < 0.9
    assert (found.diagonal() == 1).all()


def test_a_dead_node_is_like_none():
    found = similar(SIGNAL, torch.full((60, 3), 2.0))
    assert found[1].tolist() == [0, 0] == found[:, 1].tolist()


def test_images_of_one_class_are_refused():
    with pytest.raises(UserError, match=r"are of 1 class: .*num_probe_images"):
        similarity_matrix([noise(8, 3)], "probe_kl", labels=torch.zeros(8, dtype=torch.int64))


def networks(*names: str) -> list[NetworkFeatures]:
    """Of four nodes each: stem, two between, head."""

    class Description(SimpleNamespace):
        def __len__(self) -> int:
            return 4

    return [NetworkFeatures("", Description(name=name), ()) for name in names]


@pytest.mark.parametrize(("measure", "kept"), [("linear_cka", "b"), ("probe_kl", "c")])
def test_few_seams_are_kept_by_what_the_block_behind_is_used_to(measure: str, kept: str):
    names = ("a", "b", "c")
    blocks = [[BlockSpec(name, nodes) for name in names] for nodes in ((0, 2), (2, 3))]
    similarity = torch.full((9, 9), 0.1, dtype=torch.float64)
    out_of_a, into_b, into_c = 1, 4, 7  # of each network rows 0 to 2: behind stem, node 1, node 2
    similarity[out_of_a, into_b], similarity[out_of_a, into_c] = 0.8, 0.7
    similarity[into_b, 5], similarity[into_c, 8] = 0.9, 0.2  # b's own block changes little: a seam in front weighs more
    settings = SearchSettings(SimilaritySettings(measure), proxy=ProxySettings(max_seams_per_block=1))
    few = seam_shortlist(blocks, networks(*names), similarity, settings)
    assert few is not None
    assert few[0, "a"] == {kept}
    paths = seam_paths(blocks, "a", few)
    assert [[block.network for block in path] for path in paths] == [["a"], ["a", kept], ["a"]]
    assert seam_shortlist(blocks, networks(*names), similarity, SearchSettings()) is None
