from __future__ import annotations

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.data import prepare_inputs
from tuning.settings import TuningSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", ["full", "freeze"])
def test_features_are_computed_anew_only_when_what_they_depend_on_has_changed(mode):
    network, data = StandIn(dropout=0.0).eval(), Blobs()
    network.freeze(mode, norm_stats="adaptive")
    inputs = prepare_inputs(network, data, TuningSettings(mode=mode), CPU)
    runs = []
    inputs.body[-1].register_forward_hook(lambda *_: runs.append(1))

    def features() -> tuple[torch.Tensor, bool]:
        runs.clear()
        found = inputs.features("train", CPU)
        return found, bool(runs)

    start, was_run = features()
    assert was_run
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        network.head.weight += 1  # behind the features
    found, was_run = features()
    assert not was_run
    assert torch.equal(found, start)

    with torch.no_grad():
        network.adapter[0].weight *= 2
    changed, was_run = features()
    assert was_run
    assert not torch.equal(changed, start)
    network.adapter[1].running_var *= 2  # a statistic, which no gradient reaches
    assert not torch.equal(features()[0], changed)
    network.load_state_dict(state)
    found, was_run = features()
    assert was_run
    assert torch.equal(found, start)
