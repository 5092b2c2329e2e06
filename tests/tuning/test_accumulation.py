from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.settings import HeadSettings, OptimizerSettings, TrainerSettings, TuningSettings


class Batches:
    """Positions in a fixed order, in batches of given sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.sampler = sizes, self

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self):
        return (part.tolist() for part in torch.arange(sum(self.sizes)).split(self.sizes))


class Sized(Blobs):
    """Images in batches of given sizes."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(num_train=sum(sizes), num_val=12)
        self.sizes = sizes

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.splits["train"]), batch_sampler=Batches(self.sizes))


class Steps(pl.Callback):
    def __init__(self) -> None:
        self.gradients, self.rates = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.gradients.append([p.grad.clone() for p in module.network.parameters() if p.grad is not None])
        self.rates.append(optimizer.param_groups[0]["lr"])


def trained(sizes: list[int], accumulate: int, run_dir):
    steps, network = Steps(), StandIn(dropout=0.0)
    tuning = TuningSettings(
        mode="full",
        loss="cross_entropy",
        norm_stats="frozen",
        num_epochs=2,
        guard=False,
        head=HeadSettings(refit="never"),
        ema_decay=0.5,
    )
    result = tune(
        network,
        Sized(sizes),
        tuning,
        run_dir=run_dir,
        trainer=TrainerSettings(accumulate_batches=accumulate),
        optimizer=OptimizerSettings(name="sgd", learning_rate=0.01, gradient_clip_norm=1.0),
        callbacks=[steps],
    )
    return network, steps, result


@pytest.mark.parametrize(
    ("small", "accumulate", "large"),
    [
        ([4, 4, 4, 4], 2, [8, 8]),
        ([5, 3, 6, 2, 4], 2, [8, 8, 4]),  # of unequal sizes, and one left over
        ([5, 3, 6, 2, 4, 1], 4, [16, 5]),
    ],
)
def test_small_batches_make_the_step_of_a_large_one(small, accumulate, large, tmp_path) -> None:
    one, steps, result = trained(large, 1, tmp_path / "large")
    many, others, other = trained(small, accumulate, tmp_path / "small")
    assert others.rates == pytest.approx(steps.rates)  # schedules count steps
    assert len(others.rates) == 2 * len(large)
    for gradients, expected in zip(others.gradients, steps.gradients, strict=True):
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert other.val_losses == pytest.approx(result.val_losses, rel=1e-3)
