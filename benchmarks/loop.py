"""What our training loop costs beside a plain one: ``python -m benchmarks.loop`` (about three minutes on one core).

One assembled network of the embedded zoo, cross-entropy, the same groups of parameters, optimiser, schedule, images in
memory and batches, validation after every epoch: once by ``tuning.fit.tune`` (Lightning, metrics, checkpoints, the
guard's copies), once by the loop below. Both take turns; a ratio is of processor seconds on one thread, between the
start of training and its end.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.common import embedded_zoo, publish
from benchmarks.tuning import WAYS, assembly
from datamodules import Digits
from reassembly.network import AssembledNetwork
from tuning.fit import tune
from tuning.optimizers import build_optimizer, build_schedule
from tuning.parameter_groups import parameter_groups
from tuning.settings import HeadSettings, OptimizerSettings, ScheduleSettings, TuningSettings
from zoo.arguments import Parser, positive, run

COMPARED = ("full", "freeze", "freeze, stages cached")
"""Of ``benchmarks.tuning``'s ways, those that train more than a head."""


class _Fit(pl.Callback):
    """Measures the processor seconds of training."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.process_time()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.process_time() - self.begin


def ours(network: AssembledNetwork, data: Digits, tuning: TuningSettings, optimizer: OptimizerSettings) -> float:
    """Processor seconds of ``tune``'s training."""
    fit = _Fit()
    with tempfile.TemporaryDirectory() as directory:
        tune(network, data, tuning, optimizer=optimizer, run_dir=Path(directory), callbacks=[fit], test=False)
    return fit.seconds


def plain(network: AssembledNetwork, data: Digits, tuning: TuningSettings, optimizer: OptimizerSettings) -> float:
    """Processor seconds of the same training by hand."""
    body: nn.Module = nn.Sequential(*network.stages())
    splits = {split: data.images(split, data.input) for split in ("train", "val")}
    network.freeze(tuning.mode, norm_stats="frozen")
    if tuning.cache_prefix == "always":
        prefix, body = network.frozen_prefix(tuning.mode)
        with torch.no_grad():
            splits = {split: (prefix.eval()(images), labels) for split, (images, labels) in splits.items()}
    images, labels = splits["train"]
    begin = time.process_time()
    network.train()
    steps = build_optimizer(parameter_groups(network, optimizer), optimizer)
    num_steps = tuning.num_epochs * -(-len(labels) // data.batch_size)
    rate = LambdaLR(steps, build_schedule(ScheduleSettings(), num_steps, optimizer.learning_rate))
    generator = torch.Generator().manual_seed(0)
    for _ in range(tuning.num_epochs):
        for index in torch.randperm(len(labels), generator=generator).split(data.batch_size):
            loss = cross_entropy(network.head(body(images[index])), labels[index])
            steps.zero_grad()
            loss.backward()
            steps.step()
            rate.step()
        network.eval()
        accuracy(network, body, *splits["val"], data.batch_size)
        network.train()
    return time.process_time() - begin


@torch.no_grad()
def accuracy(network: AssembledNetwork, body: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """On a split."""
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(int((network.head(body(x)).argmax(1) == y).sum()) for x, y in batches) / len(labels)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, optimizer, rows = Digits(), OptimizerSettings().for_loss("cross_entropy"), []
    network = assembly(data, embedded_zoo(), ("resnext_low", "resnet_digits"))
    for way in COMPARED:
        settings = WAYS[way]
        tuning = TuningSettings(
            loss="cross_entropy",
            norm_stats="frozen",
            num_epochs=arguments.epochs,
            head=HeadSettings(refit="never"),
            **settings,
        )
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(arguments.rounds):
            seconds["plain"].append(plain(copy.deepcopy(network), data, tuning, optimizer))
            seconds["ours"].append(ours(copy.deepcopy(network), data, tuning, optimizer))
        ratios = [own / other for own, other in zip(seconds["ours"], seconds["plain"], strict=True)]
        own, other = (min(seconds[name]) for name in ("ours", "plain"))
        rows.append(
            {
                "way": way,
                "ours, s": own,
                "plain, s": other,
                "ratio": own / other,
                "of the rounds": f"{min(ratios):.2f} to {max(ratios):.2f}",
            }
        )
    reading = (
        f"{arguments.epochs} epochs of {data.num_images('train')} images, {data.num_images('val')} validated, batches "
        f"of {data.batch_size}; the fastest of {arguments.rounds} rounds each, median ratio "
        f"{statistics.median(row['ratio'] for row in rows):.2f}."
    )
    print(publish("loop", reading, rows))


if __name__ == "__main__":
    run(main)
