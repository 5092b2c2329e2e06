"""Peak memory of tuning's closed forms over the number of images; `python -m benchmarks.memory --size 224` runs it.

Every count is measured in a process of its own: photographs are made, a small network's head is solved on all of them
(probe: start, guard and validation), and the resident memory is sampled from the moment that everything is loaded.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.sampling import MemorySampler, resident_bytes
from benchmarks.synthetic import photographs
from datamodules import ImageFolder
from tuning.fit import tune
from tuning.network import TunableNetwork
from tuning.settings import HeadSettings, TuningSettings
from zoo.entries import InputSpec

MIB = 2**20


class SmallNetwork(TunableNetwork):
    """Two convolutions: what is measured is everything else."""

    def __init__(self, num_classes: int, dim: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.Conv2d(16, dim, 4, 4), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(dim, num_classes)

    def stages(self) -> list[nn.Module]:
        return [self.body, self.pool]


def measure(num_images: int, size: int, cache_bytes: int) -> dict[str, float]:
    """Peak over the baseline in MiB and seconds of a linear probe on some training images; in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_probe, (num_images, size, cache_bytes))


def _probe(num_images: int, size: int, cache_bytes: int) -> dict[str, float]:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tuning").setLevel(logging.INFO)
    logging.getLogger("datamodules").setLevel(logging.ERROR)  # the same photographs in all splits: on purpose
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for split, count in (("train", num_images), ("val", num_images // 10), ("test", num_images // 10)):
            photographs(root / split, count, size, size)
        data = ImageFolder(str(root), batch_size=64)
        spec = InputSpec(3, size, size, (0.5,) * 3, (0.25,) * 3)
        data.use_input(spec)
        network = SmallNetwork(data.num_classes)
        next(data.image_batches("val", spec, 64, batch_size=64))  # what is loaded once
        sampler, before, start = MemorySampler(), resident_bytes(), time.perf_counter()
        sampler.start()
        head = HeadSettings(initialisation="ridge")
        tuning = TuningSettings(
            mode="probe", num_epochs=0, cache_prefix="never", max_cache_bytes=cache_bytes, head=head
        )
        result = tune(network, data, tuning, run_dir=root / "run")
        stop = time.perf_counter()
        sampler.stop()
    assert result.num_head_images == num_images
    return {"peak_mib": (sampler.peak(start, stop) - before) / MIB, "seconds": stop - start}


def report(num_images: int, size: int, cache_bytes: int) -> None:
    """Prints the curve: a quarter, a half and all of the images, streamed, and what they would take in memory."""
    print(f"closed-form head on JPEGs of {size} x {size}, tuning.max_cache_bytes={cache_bytes}")
    for count in (num_images // 4, num_images // 2, num_images):
        found, whole = measure(count, size, cache_bytes), count * 3 * size * size * 4 / MIB
        print(
            f"  {count:9,} images: peak {found['peak_mib']:6.0f} MiB over the baseline, {found['seconds']:5.1f} s "
            f"({whole:,.0f} MiB as float32)"
        )
