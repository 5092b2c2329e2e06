from __future__ import annotations

import pytest
import torch

from tuning.mixing import mix


def batch():
    labels = torch.tensor([0, 1, 2, 1])
    return labels.view(-1, 1, 1, 1).expand(4, 2, 9, 7).float().clone(), labels


@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 1.0, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}]
)
def test_targets_say_what_the_images_show(alphas):
    images, labels = batch()
    classes = torch.tensor([0.0, 1.0, 2.0])
    for seed in range(20):
        mixed, targets = mix(images, labels, 3, seed=(7, seed), **alphas)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ classes)  # an image's brightness is its class
        if alphas["mixup_alpha"]:
            assert (mixed.flatten(1).std(1) < 1e-6).all()
        else:
            assert set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert torch.equal(images, batch()[0])


def test_the_seed_fixes_the_draw_and_both_kinds_come_up():
    images, labels = batch()

    def draw(seed):
        return mix(images, labels, 3, mixup_alpha=1.0, cutmix_alpha=1.0, seed=(seed,))[0]

    assert torch.equal(draw(3), draw(3))
    blended = [not set(draw(seed).unique().tolist()) <= {0.0, 1.0, 2.0} for seed in range(20)]
    assert any(blended)
    assert not all(blended)
