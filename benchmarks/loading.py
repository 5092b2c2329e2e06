"""Images per second of one core, ours against timm's loader: ``python -m benchmarks.loading``.

Both read the same made-up photographs under the same policy (a random part of a quarter of the area or more, at an
aspect of 3/4 to 4/3, resized to the network's size, mirrored by chance, normalised), with one worker process on the
core that this process runs on, too. Rounds alternate, so that what else the machine does falls on both. With
``--workers 0`` everything happens in this process, and seconds are of its processor time: the figure for a machine that
others use, too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import torch

from benchmarks.synthetic import photographs
from datamodules import ImageFolder
from zoo.arguments import Parser, positive, run
from zoo.entries import InputSpec

MIN_CROP_AREA = 0.25


def timm_loader(root: Path, spec: InputSpec, batch_size: int, num_workers: int) -> Iterable:
    """timm's own, as its training script makes it, without a GPU."""
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=str(root / "train"), split="train"),
        (spec.channels, spec.height, spec.width),
        batch_size,
        is_training=True,
        scale=(MIN_CROP_AREA, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=None,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        num_workers=num_workers,
        pin_memory=False,
        persistent_workers=num_workers > 0,
        device=torch.device("cpu"),
    )


def our_loader(root: Path, spec: InputSpec, batch_size: int, num_workers: int) -> Iterable:
    """The training loader of a folder of images."""
    data = ImageFolder(
        str(root),
        batch_size=batch_size,
        num_workers=num_workers,
        crop="random_resized",
        flip=True,
        min_crop_area=MIN_CROP_AREA,
    )
    data.use_input(spec)
    return data.train_dataloader()


def images_per_second(loader: Iterable, clock: Callable[[], float]) -> float:
    """Of one pass over all batches."""
    start, count = clock(), 0
    for batch in loader:
        count += len(batch[0] if isinstance(batch, (tuple, list)) else batch)
    return count / (clock() - start)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=512, help="in the training split")
    parser.add_argument("--height", type=positive, default=375, help="of the files; 375 x 500 is ImageNet's median")
    parser.add_argument("--width", type=positive, default=500)
    parser.add_argument("--size", type=positive, default=224, help="that the network takes")
    parser.add_argument("--interpolation", default="bilinear", choices=("bilinear", "bicubic"))
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--bytes", action="store_true", help="up to the bytes that travel to a GPU, normalised there")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    spec = InputSpec(3, arguments.size, arguments.size, *statistics, arguments.interpolation)
    clock = time.perf_counter if arguments.workers else time.process_time
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for split, count in (("train", arguments.images), ("val", 2), ("test", 2)):
            photographs(root / split, count, arguments.height, arguments.width)
        makers = {"timm": timm_loader, "ours": our_loader}
        loaders = {name: make(root, spec, arguments.batch_size, arguments.workers) for name, make in makers.items()}
        if arguments.bytes:
            loaders = {"timm": loaders["timm"].loader, "ours": loaders["ours"].unfinished()}
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(arguments.rounds + 1):
            for name, loader in loaders.items():
                rate = images_per_second(loader, clock)
                if number:  # the first starts workers and fills caches
                    rates[name].append(rate)
    print(f"{arguments.images} JPEGs of {arguments.width} x {arguments.height}, {arguments.workers} workers, one core")
    for name, values in rates.items():
        print(
            f"  {name}: {median(values):.0f} images/s (median of {len(values)}; {min(values):.0f} to {max(values):.0f})"
        )
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["timm"], strict=True)]
    print(f"  ours / timm: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    run(main)
