"""A small network of every kind of part that freezing must hold still, and images in memory."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tuning.network import TunableNetwork


def block(channels_in: int, channels: int, *, dropout: float = 0.2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(dropout)
    )


class StandIn(TunableNetwork):
    """Two blocks from elsewhere with a 1x1 adapter between them."""

    def __init__(self, num_classes: int = 3, channels: int = 1, *, seed: int = 0, dropout: float = 0.2):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = block(channels, 6, dropout=dropout)
            self.adapter = nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8))
            self.second = block(8, 10, dropout=dropout)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(10, num_classes)

    def stages(self):
        return [self.first, self.adapter, self.second, self.pool]

    def trainable_modules(self, mode):
        return [self.adapter, self.head] if mode == "freeze" else super().trainable_modules(mode)


class Gain(nn.Module):
    """A single number and a shift, which may be those of another place, too."""

    def __init__(self, gain: nn.Parameter, shift: nn.Parameter):
        super().__init__()
        self.gain, self.shift = gain, shift

    def forward(self, x):
        return self.gain * x + self.shift


class Tied(StandIn):
    """Two stages of it share their parameters, one of which is a single number."""

    def __init__(self):
        super().__init__(dropout=0.0)
        shared = nn.Parameter(torch.tensor(1.1)), nn.Parameter(torch.tensor([0.1]))
        self.gains = nn.ModuleList(Gain(*shared) for _ in range(2))

    def stages(self):
        return [self.first, self.gains[0], self.adapter, self.second, self.gains[1], self.pool]


class EpochBatches(Sampler):
    """Batches in an order of the epoch; each process takes its share of every batch."""

    def __init__(self, size: int, batch_size: int, *, shuffle: bool):
        self.size, self.batch_size, self.shuffle, self.epoch = size, batch_size, shuffle, 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self):
        return -(-self.size // self.batch_size)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
        distributed = dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        for batch in order.split(self.batch_size):
            yield batch[rank::world].tolist()


class Blobs(pl.LightningDataModule):
    """Noisy images whose class is where a bright spot lies."""

    name = "blobs"
    input = None
    augmentation = None

    def __init__(self, num_train: int = 50, num_val: int = 40, num_classes: int = 3, *, batch_size: int = 16):
        super().__init__()
        self.class_names, self.batch_size = [str(label) for label in range(num_classes)], batch_size
        generator = torch.Generator().manual_seed(1)
        self.splits = {}
        for split, size in {"train": num_train, "val": num_val, "test": num_val}.items():
            labels = torch.randint(num_classes, (size,), generator=generator)
            images = torch.randn(size, 1, 8, 8, generator=generator)
            for image, label in zip(images, labels, strict=True):
                image[0, 2 * int(label) : 2 * int(label) + 2] += 1.5
            self.splits[split] = (images, labels)

    def num_images(self, split):
        return len(self.splits[split][1])

    def images(self, split, input, limit=None):
        images, labels = self.splits[split]
        return images[:limit], labels[:limit]

    def labels(self, split, limit=None):
        return self.splits[split][1][:limit]

    def image_batches(self, split, input, limit=None, *, batch_size, start=0, step=1):
        yield from self.splits[split][0][:limit].split(batch_size)[start::step]

    def _loader(self, split, *, shuffle):
        dataset = TensorDataset(*self.splits[split])
        return DataLoader(dataset, batch_sampler=EpochBatches(len(dataset), self.batch_size, shuffle=shuffle))

    def train_dataloader(self):
        return self._loader("train", shuffle=True)

    def val_dataloader(self):
        return self._loader("val", shuffle=False)

    def test_dataloader(self):
        return self._loader("test", shuffle=False)
