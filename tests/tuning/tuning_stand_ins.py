"""A small network of every kind of part that freezing must hold still, and images in memory."""

from __future__ import annotations

import torch
from torch import nn

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
