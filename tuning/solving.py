"""The head solved in closed form on what the network now gives."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from tuning.data import TuningInputs
from tuning.distributed import broadcast
from tuning.losses import LeaveOneOutHead
from tuning.network import TunableNetwork
from tuning.ridge import NotFiniteError, RidgeFit, calibrate, fit_ridge
from zoo.chain.batches import Rows
from zoo.chain.modes import eval_mode
from zoo.errors import UserError

log = logging.getLogger(__name__)


def solve_head(
    network: TunableNetwork, inputs: TuningInputs, device: torch.device
) -> tuple[Rows, Tensor, RidgeFit, float]:
    """Solves the network's head on the training images without augmentation, whatever their number.

    Returns:
        Features (in memory where they fit), labels, fit and temperature.
    """
    features, labels = inputs.feature_rows("train", device, network.head.in_features), inputs.labels["train"]
    try:
        fit = fit_ridge(features, labels, network.head.out_features)
    except NotFiniteError as error:
        place = _first_not_finite(network, inputs, device)
        raise UserError(f"{place} gives values that are not finite") from error
    fit, temperature = broadcast((fit, calibrate(fit.leave_one_out(features, labels), labels)))
    fit.copy_to(network.head, temperature=temperature)
    left_out = "" if inputs.complete else f" of {inputs.num_train:,} training images (tuning.head.max_images)"
    log.info("head solved on %s%s", f"{len(labels):,}", left_out or " images")
    return features, labels, fit, temperature


def leave_one_out_head(features: Rows, labels: Tensor, fit: RidgeFit, temperature: float) -> LeaveOneOutHead:
    """The head of the leave-one-out loss, from what ``solve_head`` gave."""
    if not isinstance(features, Tensor):  # its bank holds them anyway
        features = torch.cat(list(features))
    return LeaveOneOutHead(features, labels, fit, temperature)


@torch.no_grad()
def _first_not_finite(network: TunableNetwork, inputs: TuningInputs, device: torch.device) -> str:
    """Names the first stage whose outputs are not finite while its inputs are."""
    names = {module: name for name, module in network.named_modules()}
    with eval_mode(inputs.body):
        for batch in inputs.batches("train"):
            found, x = "what goes into the trained part", batch.to(device)
            for stage in inputs.body:
                if not _is_finite(x):
                    return found
                name = names.get(stage) or names.get(getattr(stage, "stage", None)) or type(stage).__name__
                found, x = f"{name} of the network", stage(x)
            if not _is_finite(x):
                return found
    return "the network"


def _is_finite(state: Tensor | tuple[Tensor, ...]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in (state if isinstance(state, tuple) else (state,)))
