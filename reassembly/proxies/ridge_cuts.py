"""Ridge on all cuts: how sure a linear head on the features behind every block is of each image, from all others."""

from __future__ import annotations

from torch import Tensor

from reassembly.proxies.base import Evidence, Proxy
from tuning.ridge import calibrate, fit_ridge, leave_one_out_loss


def ridge_cuts_score(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Mean leave-one-out log-likelihood of the ridge head on (n, D) features, at the temperature that calibrates it.

    It looks at what every block of a candidate gives, so that it foretells what tuning can make of all of them; the
    features behind the last one say what they give as they are.
    """
    fit = fit_ridge(features, labels, num_classes)
    (scores,) = fit.path.leave_one_out(features, labels, [fit.ridge])
    return -leave_one_out_loss(fit, features, labels, calibrate(scores, labels))


def _score(evidence: Evidence) -> float:
    return ridge_cuts_score(evidence.cut_features, evidence.labels, evidence.num_classes)


RIDGE_CUTS = Proxy(
    name="ridge_cuts",
    score=_score,
    cost="as ridge, on the features behind every block, and a 1x1 adapter in closed form at each seam",
    needs=frozenset({"features"}),
    label="leave-one-out log-likelihood of a ridge head on all cuts, nats",
    on_all_cuts=True,
    leaves_one_out=True,
)
