from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.averaging import MovingAverage
from tuning.fit import tune
from tuning.settings import CheckpointSettings, HeadSettings, OptimizerSettings, TuningSettings


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
    optimizer = OptimizerSettings(learning_rate=0.001)
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


@pytest.mark.parametrize(("keep", "norm_stats"), [("best", "frozen"), ("last", "adaptive")])
def test_the_mean_of_the_kept_epochs_is_a_candidate(keep, norm_stats, tmp_path):
    network, data = StandIn(), Blobs()
    kept = CheckpointSettings(num_kept=2, keep=keep, average=True)
    tuning = TuningSettings(
        mode="full",
        loss="cross_entropy",
        num_epochs=4,
        norm_stats=norm_stats,
        guard=False,
        head=HeadSettings(refit="never"),
        checkpoints=kept,
    )
    result = tune(network, data, tuning, run_dir=tmp_path)
    assert result.choice == "averaged"
    paths = sorted((tmp_path / "checkpoints").glob("epoch-*.ckpt"))
    if keep == "last":
        assert [path.name for path in paths] == ["epoch-0003.ckpt", "epoch-0004.ckpt"]
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    statistics = {}
    for name, tensor in network.state_dict().items():
        one, other = first[f"network.{name}"], second[f"network.{name}"]
        if "running" in name or "num_batches" in name:
            statistics[name] = (one, other, tensor)
        else:
            expected = ((one.double() + other.double()) / 2).float()
            assert torch.equal(tensor, expected), name
    if norm_stats == "frozen":
        assert all(torch.equal(one, tensor) for one, _, tensor in statistics.values())
    else:  # measured anew: those of the first layer are the mean over batches of what its own weights give
        hidden = [network.first[0](images) for images in data.splits["train"][0].split(data.batch_size)]
        means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in hidden]).mean(0)
        torch.testing.assert_close(network.first[1].running_mean, means, rtol=1e-4, atol=1e-5)
    accuracy = float((network(data.splits["val"][0]).argmax(1) == data.splits["val"][1]).double().mean())
    assert result.val_accuracies["averaged"] == pytest.approx(accuracy)


def test_the_guard_takes_no_average_that_is_worse(tmp_path):
    tuning = TuningSettings(
        mode="full",
        loss="cross_entropy",
        num_epochs=2,
        norm_stats="frozen",
        checkpoints=CheckpointSettings(num_kept=2, average=True),
    )
    result = tune(StandIn(), Blobs(), tuning, run_dir=tmp_path, optimizer=OptimizerSettings(learning_rate=3.0))
    assert set(result.val_accuracies) == {"start", "tuned", "refitted", "averaged"}
    assert result.choice != "averaged"
    assert result.val_accuracies[result.choice] == max(result.val_accuracies.values())
