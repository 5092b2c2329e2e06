"""The whole networks side by side with one head over all their features: cloning without localisation or position.

Where the head is solved it reads the target at as many cuts as that of cloning does.

The head begins in the closed form of cloning and is solved as cloning solves it (``cloning.head``); without exemplars
of the target's classes its blocks are calibrated on validation images, as those of cloning are.
"""

from __future__ import annotations

from torch import nn

from cloning.fitting import calibrate_network_head, is_without_originals, solve_taught_head
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import RivalSettings
from cloning.samples import Samples


def concatenated(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Solves the head on the correction samples; settings and seed play no part."""
    network = problem.network.with_whole_sources()
    val = Samples(*problem.data.images("val", problem.target.input))
    if is_without_originals(network, problem.correction.labels):
        calibrate_network_head(network, val)
    else:
        solve_taught_head(network, [problem.correction], val)
    return network
