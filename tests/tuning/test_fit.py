from __future__ import annotations

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.settings import TuningSettings


@pytest.mark.parametrize("loss", ["cross_entropy", "loo"])
@pytest.mark.parametrize("mode", ["full", "freeze", "probe"])
def test_modes_and_losses(mode, loss, tmp_path):
    network = StandIn()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = tune(network, Blobs(), TuningSettings(mode=mode, loss=loss, num_epochs=2), run_dir=tmp_path)
    print(result)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    if mode == "freeze":
        assert all(name.startswith(("adapter.", "head.")) for name in changed)
