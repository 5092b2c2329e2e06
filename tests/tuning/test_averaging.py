from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.averaging import MovingAverage
from tuning.fit import tune
from tuning.settings import HeadSettings, OptimizerSettings, TuningSettings


def test_floats_are_averaged_and_whole_numbers_copied():
    weight, counter = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.tensor(3)
    tensors = {"weight": weight, "counter": counter, "tied": weight}
    average = MovingAverage(tensors, 0.75)
    with torch.no_grad():
        weight += 4
    counter += 2
    average.update()
    state = average.state()
    assert state["weight"].tolist() == state["tied"].tolist() == [2.0, 3.0]
    assert int(state["counter"]) == 5

    average.exchange()
    assert weight.tolist() == [2.0, 3.0]
    average.exchange()
    assert weight.tolist() == [5.0, 6.0]
    assert average.state()["weight"].tolist() == [2.0, 3.0]


class Watch(pl.Callback):
    """Compares what must not change with what it was, at every batch and in every validation."""

    def __init__(self, network: StandIn, data: Blobs) -> None:
        network.freeze(network.watched_mode, norm_stats="frozen")
        trained = network.trained_state().keys()
        self.network, self.data = network, data
        self.frozen = {k: t.clone() for k, t in network.state_dict().items() if k not in trained}
        self.labels = {split: labels.clone() for split, (_, labels) in data.splits.items()}
        self.num_looks, self.val_weights, self.train_weights = 0, [], []

    def look(self) -> None:
        self.num_looks += 1
        state = self.network.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in self.frozen.items())
        assert all(torch.equal(self.data.splits[split][1], labels) for split, labels in self.labels.items())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.look()
        if module.leave_one_out is not None:
            assert torch.equal(module.leave_one_out.labels, self.labels["train"])
        self.train_weights.append(self.network.adapter[0].weight.detach().clone())

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.look()
        self.val_weights.append(self.network.adapter[0].weight.detach().clone())


@pytest.mark.parametrize("loss", ["loo", "cross_entropy"])
@pytest.mark.parametrize("mode", ["freeze", "full"])
def test_validation_and_checkpoints_are_of_the_average_and_the_rest_is_left_alone(loss, mode, tmp_path):
    network, data = StandIn(), Blobs()
    network.watched_mode = mode
    watch = Watch(network, data)
    tuning = TuningSettings(
        mode=mode, loss=loss, num_epochs=3, norm_stats="frozen", ema_decay=0.6, head=HeadSettings(refit="never")
    )
    start = copy.deepcopy(network.adapter[0].weight.detach())
    optimizer = OptimizerSettings(learning_rate=0.003)
    result = tune(network, data, tuning, run_dir=tmp_path, optimizer=optimizer, callbacks=[watch])
    assert watch.num_looks == 3 * (4 + 3)

    average = start.clone()
    for step, weight in enumerate(watch.train_weights, 1):
        average = 0.6 * average + 0.4 * weight
        if step % 4 == 0:
            validated = watch.val_weights[3 * (step // 4 - 1)]
            torch.testing.assert_close(validated, average)
            assert not torch.equal(validated, weight)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(last["state_dict"]["network.adapter.0.weight"], watch.val_weights[-1])
    assert torch.equal(last["trained"]["adapter.0.weight"], watch.train_weights[-1])
    assert result.val_losses["tuned"] < result.val_losses["start"] + 0.1
