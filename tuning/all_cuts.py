"""A head on all cuts: refitted when everything else is tuned, where it is better.

What is tuned is tuned under a head on the last features, and what is best with a head on all cuts could end below its
own start: so the start with such a head is a candidate, too. Leave-one-out says which of the two heads is better while
the features do not follow the labels. Of what was trained it flatters the last features, which were fitted to the very
images that are left out: there the validation images say it (``benchmarks/results/selection.md``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from tuning.data import TuningInputs
from tuning.distributed import broadcast
from tuning.evaluation import Candidate, Evaluation
from tuning.network import TunableNetwork
from tuning.ridge import RidgeFit, leave_one_out_loss
from tuning.settings import TuningSettings
from zoo.chain.batches import Rows

log = logging.getLogger(__name__)

NAME = "all_cuts"


def refits_on_all_cuts(network: TunableNetwork, tuning: TuningSettings, *, learnt: bool, is_complete: bool) -> bool:
    """Whether a head on all cuts is to be tried at the end.

    Args:
        network: As it begins.
        tuning: Its settings.
        learnt: Whether (some rows of) the head are learnt and kept: it then goes on as it is.
        is_complete: Whether closed forms take all training images.
    """
    rule, head = network.head_inputs, tuning.head
    is_allowed = head.refit == "always" or (head.refit == "auto" and is_complete)
    is_drawn = rule == NAME and head.initialisation == "random"  # and trained as it is
    return rule != "last" and is_allowed and not learnt and not is_drawn


def refit_on_all_cuts(
    network: TunableNetwork,
    inputs: TuningInputs,
    wide_inputs: Callable[[], TuningInputs],
    solve: Callable[[TunableNetwork, TuningInputs], tuple[Rows, Tensor, RidgeFit, float]],
    evaluation: Evaluation,
    name: str,
    *,
    is_asked: bool,
    is_flattered: bool = False,
) -> Candidate | None:
    """Solves a head on all cuts; None where the last features are better.

    The network reads its last features afterwards, as before, with whichever head was solved for the comparison.

    Args:
        network: In place.
        inputs: The data as its trained part sees it, up to the last features.
        wide_inputs: The same up to the features of all cuts, once the network reads them.
        solve: Writes a closed-form head into the network.
        evaluation: Measures it.
        name: Of the candidate.
        is_asked: Take it whatever leave-one-out says.
        is_flattered: Leave-one-out cannot say it; the caller compares them on validation.
    """

    def loss(of: TuningInputs) -> float:
        features, labels, fit, temperature = solve(network, of)
        return leave_one_out_loss(fit, features, labels, temperature)

    last, head = (None if is_asked else loss(inputs)), network.head
    network.read(NAME)
    wider = wide_inputs()
    wide = loss(wider)
    if last is not None:
        log.info("head: leave-one-out loss %.4f on the last features, %.4f on those of all cuts", last, wide)
    is_better = last is None or is_flattered or broadcast(wide < last)
    found = evaluation.candidate(name, wider) if is_better else None
    network.read("last", head)
    return found
