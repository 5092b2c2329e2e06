"""Networks as users write them: glue of all sorts, shared modules."""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, channels: int, out: int | None = None, stride: int = 1) -> None:
        super().__init__()
        out = out or channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.norm = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Identity() if (channels, stride) == (out, 1) else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x):
        y = F.dropout(F.relu(self.norm(self.conv1(x))), 0.2, self.training)
        return F.relu(self.conv2(y) + self.shortcut(x))


class Body(nn.Module):
    """A stem, four residual blocks and a head, with the forward of its subclasses."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, 1, 1)
        self.blocks = nn.Sequential(Residual(8), nn.Sequential(Residual(8, 12, 2), Residual(12)), Residual(12, 16, 2))
        self.head = nn.Linear(16, 5)

    def forward(self, x, mask=None, *rest, scale=1.0, **options):
        assert isinstance(x, torch.Tensor)
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = self.blocks(x).mean([2, 3])
        return self.head(F.dropout(x, p=0.3, training=self.training)) * scale


class Functional(nn.Module):
    """Residual additions, in-place activations and convolutions in the network's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(3))
        self.kernels = nn.ParameterList(nn.Parameter(torch.randn(8, 8, 3, 3) / 9) for _ in range(3))
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        self.activation(x)
        for conv, kernel in zip(self.first, self.kernels, strict=True):
            x = x + F.conv2d(self.activation(conv(x)), kernel, padding=1)
        return self.head(F.avg_pool2d(x, x.shape[-2:]).view(x.size(0), -1))


class PreActivation(nn.Module):
    """Every block starts by writing into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 1, 1)) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.amax((2, 3)))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, 1, 1) for i in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x


class Coordinates(Body):
    """Sizes of the image are needed again behind the blocks, plain tensors and buffers in front of them."""

    def __init__(self) -> None:
        super().__init__(5)
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("std", torch.rand(3, 1, 1) + 1, persistent=False)
        self.scale = torch.tensor([2.0])

    def forward(self, x):
        height, width = x.shape[2:]
        x = (x - self.mean) / self.std * self.scale
        rows = torch.linspace(-1, 1, height, device=x.device).view(1, 1, height, 1).expand(len(x), 1, height, width)
        columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(x.size(0), 1, height, width)
        x = self.blocks(self.stem(torch.cat([x, rows, columns.to(x)], 1)))
        return self.head(F.interpolate(x, size=(height, width)).amax((2, 3)))


class Placed(Body):
    """Asks a parameter of its head where to compute and in which precision."""

    def forward(self, x):
        return super().forward(x.to(self.head.weight.device).to(dtype=self.head.weight.dtype))


class Tokens(nn.Module):
    """A transformer on a grid of 7 x 5 with a class token and two registers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 24))
        self.registers = nn.Parameter(torch.randn(1, 2, 24))
        self.positions = nn.Parameter(torch.randn(1, 35, 24))
        layers = [nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True) for _ in range(3)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        batch = x.shape[0]
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.class_token.expand(batch, -1, -1), self.registers.repeat(batch, 1, 1), x], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Shared(Body):
    """One residual block used twice, and one weight in two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Residual(8) for _ in range(6)]
        blocks[2] = blocks[1]
        blocks[5].conv1.weight = blocks[4].conv1.weight
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8, 5)


def plain() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True)),
        nn.Sequential(copy.deepcopy(convolution), nn.MaxPool2d(2), nn.Sequential(convolution, nn.Dropout(0.2))),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)),
    )


def dense() -> nn.Module:
    stages = [nn.Sequential(Dense(), nn.Conv2d(20, 8, 1), nn.AvgPool2d(2)) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), *stages, Dense(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5)
    )


def multilayer_perceptron() -> nn.Module:
    layers = [layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 20, 32), *layers, nn.Linear(32, 5))


def weight_normed() -> nn.Module:
    convolutions = [nn.utils.parametrizations.weight_norm(nn.Conv2d(3 if i == 0 else 8, 8, 3)) for i in range(4)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def vision_transformer() -> nn.Module:
    sizes = {"image_size": 28, "patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
    return torchvision.models.VisionTransformer(**sizes, dropout=0.1, num_classes=5)
