from __future__ import annotations

import copy
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tuning_stand_ins import Blobs, StandIn

from tuning import throughput
from tuning.fit import tune
from tuning.settings import TrainerSettings, TuningSettings
from tuning.throughput import Compiled, LoaderWatch
from tuning.trainer import build_trainer
from zoo.chain.program import Block, Program, Ref, Step

PLAIN = TuningSettings(mode="freeze", loss="cross_entropy", num_epochs=2, norm_stats="frozen", cache_prefix="never")


class Slow(Dataset):
    """Images that take their time to come."""

    def __init__(self, images: Dataset) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple:
        time.sleep(0.02)
        return self._images[index]


class SlowBlobs(Blobs):
    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        return DataLoader(Slow(loader.dataset), batch_sampler=loader.batch_sampler)


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Lets a watch see steps of given seconds and returns what it said."""
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda pid: {0, 1})

    def run(*epochs: list[tuple[float, float]], num_workers: int = 0, is_main: bool = True, **options) -> list[str]:
        watch, caplog.records[:] = LoaderWatch(**options), []
        trainer = SimpleNamespace(is_global_zero=is_main, train_dataloader=SimpleNamespace(num_workers=num_workers))
        batch = (torch.zeros(32, 1), torch.zeros(32), torch.zeros(32))
        with caplog.at_level(logging.WARNING, logger="tuning.throughput"):
            for steps in epochs:
                clock.now += 50  # validation
                watch.on_train_epoch_start(trainer, None)
                for index, (waited, worked) in enumerate(steps):
                    clock.now += waited
                    watch.on_train_batch_start(trainer, None, batch, index)
                    clock.now += worked
                    watch.on_train_batch_end(trainer, None, None, batch, index)
        return [record.getMessage() for record in caplog.records if record.name == "tuning.throughput"]

    return run


def test_waiting_is_told_once_with_the_rates_of_loader_and_steps(told) -> None:
    slow = [(0.4, 0.1)] * 40
    assert told(slow, slow) == [
        "training waits for images 80% of the time: the loader gives 80 images/s, the steps could take 320 images/s; "
        "raise dataset.num_workers=0 (there are 2 cores), or store the images at the size that the network takes"
    ]
    assert told(slow, num_workers=2) == [
        "training waits for images 80% of the time: the loader gives 64 images/s, the steps could take 320 images/s; "
        "store the images at the size that the network takes"
    ]


def test_only_the_first_process_speaks(told) -> None:
    assert told([(0.4, 0.1)] * 40, is_main=False) == []


def test_what_is_no_waiting_in_the_long_run_is_not_told(told) -> None:
    assert told([(0.4, 1.0)] * 100) == []  # 29 %
    assert told([(0.01, 0.001)] * 100) == []  # a second in all
    assert told([(0.4, 0.1)] * 20) == []  # too few steps
    assert told([(90.0, 0.1)] + [(0.1, 1.0)] * 60, [(90.0, 0.1)] + [(0.1, 1.0)] * 60) == []  # workers start
    assert told([(9.0, 0.1)] * 5 + [(0.1, 1.0)] * 60) == []  # warm-up


def test_a_slow_loader_is_told_in_a_real_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = LoaderWatch(min_seconds=0.05, min_steps=3, warmup_steps=1)
    with caplog.at_level(logging.WARNING, logger="tuning.throughput"):
        tune(StandIn(), SlowBlobs(batch_size=4), PLAIN, run_dir=tmp_path, callbacks=[watch])
    (told,) = [record.getMessage() for record in caplog.records if record.name == "tuning.throughput"]
    share, loader, _ = map(int, re.findall(r"(\d+) ?(?:%|images/s)", told))
    assert share > 30
    assert loader <= 50  # 0.02 s each
    assert "raise dataset.num_workers=0" in told


def test_every_training_is_watched(tmp_path: Path) -> None:
    assert any(type(callback) is LoaderWatch for callback in build_trainer(TrainerSettings(), tmp_path).callbacks)


def test_channels_last_holds_during_training_and_leaves_no_trace(tmp_path: Path) -> None:
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
            kernel = module.network.second[0].weight
            seen.append(kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous())

    network, plain = StandIn(), StandIn()
    before = copy.deepcopy(network.state_dict())
    trainer = TrainerSettings(channels_last=True)
    result = tune(network, Blobs(), PLAIN, trainer=trainer, run_dir=tmp_path / "last", callbacks=[Look()])
    expected = tune(plain, Blobs(), PLAIN, run_dir=tmp_path / "first")
    assert seen
    assert all(seen)
    for name, tensor in network.state_dict().items():
        assert tensor.is_contiguous(), name
        if name.startswith(("first.", "second.")):
            assert torch.equal(tensor, before[name]), name
    assert result.val_accuracies == pytest.approx(expected.val_accuracies, abs=0.05)


def as_block(parts: nn.Sequential) -> Block:
    """The parts one after the other, as the nodes of a chain."""
    names = ["x", *(f"node_{k}" for k in range(len(parts)))]
    steps = [Step(names[k + 1], "module", str(k), (Ref(names[k]),)) for k in range(len(parts))]
    return Block(parts, Program(tuple(steps), "x", names[-1]))


def fully_tuned(folder: Path, trainer: TrainerSettings) -> tuple[dict[str, torch.Tensor], list[int]]:
    """State after Full-Tuning of blocks with dropout and adaptive statistics; calls of the first convolution."""
    network, calls = StandIn(), [0]
    network.first, network.second = as_block(network.first), as_block(network.second)
    convolution = network.first.nodes()[0]
    compute = convolution._conv_forward

    def counted(*args: torch.Tensor) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return compute(*args)

    convolution._conv_forward = counted
    settings = TuningSettings(mode="full", loss="cross_entropy", num_epochs=1, norm_stats="adaptive")
    tune(network, Blobs(), settings, run_dir=folder, trainer=trainer)
    assert "forward" not in vars(convolution)
    return network.state_dict(), calls


def test_activation_checkpoints_compute_nodes_twice_and_change_no_bit(tmp_path: Path) -> None:
    expected, calls = fully_tuned(tmp_path / "a", TrainerSettings())
    state, more_calls = fully_tuned(tmp_path / "b", TrainerSettings(activation_checkpointing=True))
    assert more_calls[0] - calls[0] == len(Blobs().train_dataloader())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_activation_checkpoints_take_nodes_that_write_into_their_input(tmp_path: Path) -> None:
    states = []
    for is_on in (False, True):
        network = StandIn()
        network.second = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), network.second), nn.ReLU(inplace=True))
        network.first, network.second = as_block(network.first), as_block(network.second)
        settings = TuningSettings(mode="full", loss="cross_entropy", num_epochs=1)
        trainer = TrainerSettings(activation_checkpointing=is_on)
        tune(network, Blobs(), settings, run_dir=tmp_path / str(is_on), trainer=trainer)
        states.append(network.state_dict())
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in states[1].items())


def test_compiled_training_gives_the_same_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []
    monkeypatch.setattr(Compiled, "backend", staticmethod(lambda graph, _: graphs.append(graph) or graph.forward))
    network, expected = StandIn(dropout=0.0), StandIn(dropout=0.0)
    tune(expected, Blobs(), PLAIN, run_dir=tmp_path / "a")
    tune(network, Blobs(), PLAIN, run_dir=tmp_path / "b", trainer=TrainerSettings(compile=True))
    assert graphs
    torch.testing.assert_close(network.state_dict(), expected.state_dict())
