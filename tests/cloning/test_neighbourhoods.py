from __future__ import annotations

import torch
from cloning_stand_ins import images

from cloning.neighbourhoods import draw_neighbourhoods, fit_surrogates, surrogate_outputs


def test_surrogates_are_the_weighted_least_squares_solutions() -> None:
    generator = torch.Generator().manual_seed(0)
    around = draw_neighbourhoods(2, 20, (3, 2), generator)
    outputs = torch.randn(2, 20, 4, generator=generator)
    surrogates = fit_surrogates(around, outputs, ridge=0.7)
    fitted = surrogate_outputs(around, surrogates)
    for i in range(2):
        design = torch.cat([around.patches[i], torch.ones(20, 1)], 1).double()
        root = around.proximity[i].sqrt()[:, None]
        rows = torch.cat([root * design, 0.7**0.5 * torch.eye(7, dtype=torch.float64)])
        right = torch.cat([root * outputs[i].double(), torch.zeros(7, 4, dtype=torch.float64)])
        expected = torch.linalg.lstsq(rows, right).solution
        torch.testing.assert_close(surrogates[i], expected)
        torch.testing.assert_close(fitted[i], design @ expected)


def test_neighbours_keep_or_blacken_whole_patches() -> None:
    around = draw_neighbourhoods(3, 5, (2, 4), torch.Generator().manual_seed(1))
    assert around.patches.shape == (3, 5, 8)
    assert torch.equal(around.proximity[:, 0], torch.ones(3, dtype=torch.float64))
    assert (around.proximity <= 1).all()
    x, black = images(3, channels=2, size=8), torch.tensor([-1.0, -2.0])
    index = torch.tensor([0, 7, 14])
    neighbours = around.images(x, index, black)
    assert torch.equal(neighbours[0], x[0])
    for neighbour, image, number in zip(neighbours[1:], (1, 2), index[1:].tolist(), strict=True):
        kept = around.patches[image, number % 5].view(2, 4).repeat_interleave(4, 0).repeat_interleave(2, 1).bool()
        assert torch.equal(neighbour[:, kept], x[image][:, kept])
        assert torch.equal(neighbour[:, ~kept], black[:, None].expand(2, int((~kept).sum())))
