from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tuning.losses import LeaveOneOutHead, cross_entropy, leave_one_out_residuals
from tuning.ridge import calibrate, fit_ridge


def problem(n, d):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + labels[:, None], labels


@pytest.mark.parametrize(("n", "d"), [(9, 20), (30, 5)])
def test_residuals_are_those_of_the_closed_form(n, d):
    features, labels = problem(n, d)
    fit = fit_ridge(features, labels, 3, 0.7)
    z = (features - features.mean(0)) / features.std(0, unbiased=False)
    index = torch.tensor([4, 1, 7])
    residuals = leave_one_out_residuals(z + 2.5, labels, index, 3, 0.7)
    expected = F.one_hot(labels, 3)[index] - torch.cat(list(fit.leave_one_out(features, labels)))[index]
    torch.testing.assert_close(residuals, expected)


@pytest.mark.parametrize(("n", "d"), [(7, 9), (9, 3)])
def test_gradients_pass_through_the_solve(n, d):
    features, labels = problem(n, d)
    fit = fit_ridge(features, labels, 3, 0.7)
    index = torch.tensor([2, 0])
    rows = (features[index] + 0.3).requires_grad_()

    def logits(rows):
        return LeaveOneOutHead(features, labels, fit, 5.0)(rows, index)

    assert torch.autograd.gradcheck(logits, rows)


def test_the_bank_takes_the_rows_of_each_batch_and_is_refreshed():
    features, labels = problem(12, 4)
    fit = fit_ridge(features, labels, 3, 0.7)
    head = LeaveOneOutHead(features, labels, fit, calibrate(fit.leave_one_out(features, labels), labels))
    solved = torch.nn.Linear(4, 3, dtype=torch.float64)
    head.solve(features, solved)
    torch.testing.assert_close(solved.weight, fit.weight * head.temperature)
    labels[0] += 1  # the caller's
    assert head.labels[0] == labels[0] - 1
    changed = features.clone()
    changed[[3, 5]] += 1
    head(changed[[3, 5]].float().requires_grad_(), torch.tensor([3, 5])).sum().backward()
    assert not head.bank.requires_grad
    torch.testing.assert_close(head.bank * head.scale + head.mean, changed, rtol=1e-5, atol=1e-5)
    head.refresh(features)
    torch.testing.assert_close(head.bank * head.scale + head.mean, features)


def test_cross_entropy_sums_and_takes_soft_targets():
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    expected = -logits.log_softmax(1)[torch.arange(4), labels].sum()
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(cross_entropy(logits, F.one_hot(labels, 3).float()), expected)
