from __future__ import annotations

import logging
import re

import pytest
import torch
from torch import nn
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.reference import Reference
from tuning.settings import HeadSettings, TuningSettings
from zoo.chain import Costs
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(1, 8, 8, (0.0,), (1.0,))


def home(network: StandIn) -> Reference:
    """The tail's own network: the same second block behind a first block and an adapter of its own."""
    own = StandIn(seed=3).eval()
    own.second.load_state_dict(network.second.state_dict())
    return Reference("home", nn.Sequential(*own.stages()).eval(), SPEC, Costs(1, 1), ())


def settings(**changes) -> TuningSettings:
    values = {"mode": "freeze", "num_epochs": 0, "warmup": "feature_matching", "warmup_epochs": 8}
    return TuningSettings(
        **{**values, "warmup_learning_rate": 0.02, "head": HeadSettings(initialisation="random"), **changes}
    )


@pytest.mark.parametrize("mode", ["freeze", "full"])
def test_the_warm_up_learns_the_adapters_and_nothing_else(mode, tmp_path, caplog):
    network, data = StandIn(), Blobs()
    data.splits = {split: (images, labels * 0) for split, (images, labels) in data.splits.items()}  # no label is read
    reference = home(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        tune(network, data, settings(mode=mode), run_dir=tmp_path, home=reference)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"adapter.0.weight", "adapter.0.bias", "adapter.1.weight", "adapter.1.bias"}
    (found,) = re.findall(r"validation images ([\d.]+) before, ([\d.]+) after$", caplog.text, re.MULTILINE)
    assert float(found[1]) < 0.7 * float(found[0])
    images = data.splits["val"][0]
    with torch.no_grad():
        wanted, got = reference.network(images), network.forward_features(images)
        scale = (wanted - wanted.mean(0)).square().mean(0).sqrt()
    assert ((got - wanted) / scale).square().mean().item() == pytest.approx(float(found[1]), abs=1e-3)


def test_a_warm_up_that_harms_is_taken_back(tmp_path, caplog):
    network = StandIn()
    reference = Reference("itself", nn.Sequential(*StandIn().stages()).eval(), SPEC, Costs(1, 1), ())  # nothing to gain
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        tune(network, Blobs(), settings(warmup_epochs=1), run_dir=tmp_path, home=reference)
    assert "taken back" in caplog.text
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_warm_up_needs_adapters_and_a_head_that_is_solved_anew(tmp_path):
    class Whole(StandIn):
        def trainable_modules(self, mode):
            return [self] if mode == "full" else [self.head]

    with pytest.raises(UserError, match="has none between its blocks"):
        tune(Whole(), Blobs(), settings(), run_dir=tmp_path, home=home(StandIn()))
    with pytest.raises(UserError, match=r"tuning.head.initialisation=ridge"):
        tune(StandIn(), Blobs(), settings(head=HeadSettings()), run_dir=tmp_path, home=home(StandIn()), learnt=True)
