"""Speed of the ways to tune: ``python -m benchmarks.tuning``.

One assembled network (two thirds of one embedded network, an adapter, the last third of another), the same images and
epochs with cross-entropy. The ways take turns, so that whatever else the machine does strikes all of them; the table
gives the fastest round of each and how much faster than Full-Tuning it is. Computing the frozen stages once is counted.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch

from benchmarks.common import embedded_zoo
from datamodules import Digits
from reassembly.network import AssembledNetwork
from reassembly.stitch import assemble_stitched
from tuning.fit import tune
from tuning.settings import HeadSettings, TuningSettings
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.digests import digest
from zoo.loading import load_chain

WAYS = {
    "full": {"mode": "full"},
    "freeze": {"mode": "freeze", "cache_prefix": "never"},
    "freeze, stages cached": {"mode": "freeze", "cache_prefix": "always"},
    "probe by gradient, cached": {"mode": "probe", "cache_prefix": "always"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = Digits()
    network = assembly(data)
    seconds = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, settings in WAYS.items():
            seconds[way].append(measure(network, data, arguments.epochs, settings))
    full = min(seconds["full"])
    print(f"{arguments.epochs} epochs of {data.num_images('train')} images, best of {arguments.rounds} rounds")
    for way, rounds in seconds.items():
        print(f"{way:28} {min(rounds):7.2f} s   {full / min(rounds):5.1f}x")
    with tempfile.TemporaryDirectory() as directory:
        settings = TuningSettings(mode="probe", num_epochs=0)
        solved = tune(copy.deepcopy(network), data, settings, run_dir=Path(directory), test=False).seconds["start"]
    print(f"{'probe in closed form':28} {solved:7.2f} s   {full / solved:5.1f}x")


def assembly(data: Digits) -> AssembledNetwork:
    """Two thirds of the ResNeXt and the last third of the ResNet, joined by a closed-form adapter."""
    zoo = embedded_zoo()
    names = ("resnext_low", "resnet_digits")
    chains = {name: load_chain(zoo[name]) for name in names}
    first, second = (len(chains[name]) - 1 for name in names)
    blueprint = ReassemblyBlueprint(
        blocks=(BlockSpec(names[0], (0, 2 * first // 3)), BlockSpec(names[1], (2 * second // 3, second))),
        adapters=(AdapterSpec(kernel_size=1),),
        head=HeadSpec(classes=data.class_names),
        networks={name: digest(chain.network) for name, chain in chains.items()},
    )
    data.use_input(zoo[names[0]].input)
    return assemble_stitched(blueprint, chains, lambda name: data.images("train", zoo[name].input)[0], seed=0)


def measure(network: AssembledNetwork, data: Digits, num_epochs: int, settings: dict[str, str]) -> float:
    """Seconds until the trained weights lie there, from the images on."""
    tuning = TuningSettings(
        loss="cross_entropy", norm_stats="frozen", num_epochs=num_epochs, head=HeadSettings(refit="never"), **settings
    )
    with tempfile.TemporaryDirectory() as directory:
        result = tune(copy.deepcopy(network), data, tuning, run_dir=Path(directory), test=False)
    return result.seconds["start"] + result.seconds["fit"]


if __name__ == "__main__":
    main()
