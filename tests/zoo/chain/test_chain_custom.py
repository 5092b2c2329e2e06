"""Slicing networks that a user wrote: glue of all sorts, shared modules, modes, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from zoo import Chain, UserError


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


# factory, image, kinds of the nodes, number of features
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], str, int]] = {
    "residual": (Body, (3, 28, 20), "sbbbbh", 16),
    "one channel": (lambda: Body(1), (1, 32, 32), "sbbbbh", 16),
    "functional": (Functional, (3, 28, 20), "sbbbh", 8),
    "pre-activation": (PreActivation, (3, 28, 20), "sbbbh", 8),
    "coordinates": (Coordinates, (3, 28, 20), "sbbbbh", 16),
    "placed": (Placed, (3, 28, 20), "sbbbbh", 16),
    "tokens": (Tokens, (3, 28, 20), "sbbbh", 24),
    "shared": (Shared, (3, 28, 20), "sbbbbh", 8),
    "plain": (plain, (3, 28, 20), "sbbh", 8),
    "dense": (dense, (3, 32, 32), "sblblbh", 20),
    "perceptron": (multilayer_perceptron, (3, 28, 20), "sbbbh", 32),
    "weight norm": (weight_normed, (3, 28, 20), "sbbbh", 8),
    "torchvision transformer": (vision_transformer, (3, 28, 28), "sbbbh", 24),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Chain, torch.Tensor]:
    factory, shape, kinds, num_features = NETWORKS[request.param]
    torch.manual_seed(0)
    network = factory()
    chain = Chain.from_network(network, torch.zeros(1, *shape), name=request.param)
    assert "".join(node.kind[0] for node in chain.nodes) == kinds
    assert chain.neck_dim == num_features
    return network, chain, torch.randn(3, *shape)


def run(pieces: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for piece in pieces:
        x = piece(x)
    return x


def test_equal_in_both_modes(case: tuple[nn.Module, Chain, torch.Tensor]) -> None:
    network, chain, x = case
    pieces = [chain.block(i, i + 1) for i in range(len(chain))]
    assert sorted(key for piece in pieces for key in piece.state_dict()) == sorted(network.state_dict())
    twin, copies = copy.deepcopy(network).train(), [copy.deepcopy(piece).train() for piece in pieces]
    torch.manual_seed(3)
    expected = twin(x)
    torch.manual_seed(3)
    assert torch.equal(run(copies, x), expected)
    statistics = twin.state_dict()
    assert all(torch.equal(value, statistics[key]) for piece in copies for key, value in piece.state_dict().items())
    assert torch.equal(run([piece.eval() for piece in copies], x), twin.eval()(x))


def test_inputs_stay_as_they_are(case: tuple[nn.Module, Chain, torch.Tensor]) -> None:
    network, chain, x = case
    network.eval()
    for index in range(len(chain)):
        assert tuple(x.shape) == chain.signal(index).shape(3)
        before = x.clone()
        y = chain.block(index, index + 1)(x)
        assert torch.equal(x, before)
        x = y


@pytest.mark.parametrize("name", ["residual", "functional", "pre-activation", "coordinates", "plain", "dense"])
def test_another_size(name: str) -> None:
    factory, shape, *_ = NETWORKS[name]
    network = factory().eval()
    chain = Chain.from_network(network, torch.zeros(1, *shape))
    x = torch.randn(2, 3, 40, 52)
    assert torch.equal(run([chain.block(i, i + 1) for i in range(len(chain))], x), network(x))


def test_tokens_on_a_grid_that_is_not_square() -> None:
    signal = Chain.from_network(Tokens(), torch.zeros(1, 3, 28, 20)).signal(2)
    assert (signal.layout, signal.channels, signal.grid, signal.num_prefix_tokens) == ("NLC", 24, (7, 5), 3)
    assert signal.stride == 4


def test_shared_modules_stay_in_one_node() -> None:
    network = Shared()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [node.name for node in chain.nodes[1:-1]] == [
        "blocks.0",
        "blocks.1 blocks.1",
        "blocks.3",
        "blocks.4 blocks.5",
    ]
    twin = copy.deepcopy(chain.block(4, 5))
    assert twin.blocks.get_submodule("4").conv1.weight is twin.blocks.get_submodule("5").conv1.weight


def test_parameters_that_are_never_used_ride_with_the_head() -> None:
    network = Body()
    network.unused = nn.Linear(3, 3)
    network.register_parameter("token", nn.Parameter(torch.zeros(4)))
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert set(chain.block(len(chain) - 1, len(chain)).state_dict()) == {
        *("head.weight", "head.bias", "unused.weight", "unused.bias", "token")
    }
    assert chain.costs.num_params == sum(parameter.numel() for parameter in network.parameters())


def test_nodes_by_hand() -> None:
    network = Body()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16), nodes=["blocks.0", "blocks.1"])
    assert [node.name for node in chain.nodes] == ["stem", "blocks.0", "blocks.1", "blocks.2 head"]
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    assert torch.equal(run([chain.block(0, 2), chain.block(2, 4)], x), network(x))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (["blocks.0", "layer9"], "has no module layer9"),
        (["blocks.0.conv1", "blocks.0.shortcut", "blocks.1"], "in front of blocks.0.shortcut"),
        ([], "nodes= takes names"),
    ],
)
def test_nodes_by_hand_that_are_no_nodes(nodes: list[str], reason: str) -> None:
    network = Body()
    network.blocks[0] = Residual(8, 8, 2)
    with pytest.raises(UserError, match=reason):
        Chain.from_network(network, torch.zeros(1, 3, 16, 16), nodes=nodes)


def test_network_without_stem_and_head() -> None:
    network = nn.Sequential(Residual(3, 8), Residual(8), Residual(8), Residual(8))
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [node.kind for node in chain.nodes] == ["stem", "block", "block", "head"]
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(chain.neck()(x), x.mean((2, 3)))


def test_mixed_modes_and_hooks_are_left_alone() -> None:
    network = Body()
    network.blocks[0].norm.eval()
    network.stem.weight.requires_grad_(False)
    calls: list[str] = []
    network.blocks[0].conv1.register_forward_hook(lambda *_: calls.append("conv1"))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert len(network.blocks[0].conv1._forward_hooks) == 1
    calls.clear()
    block = chain.block(1, 2)
    block(torch.randn(2, 8, 8, 8))
    assert calls == ["conv1"]
    assert not chain.block(0, 1).stem.weight.requires_grad


def test_network_without_data_has_costs() -> None:
    with torch.device("meta"):
        network = Body()
    chain = Chain.from_network(network, torch.zeros(1, 3, 28, 20))
    assert chain.costs == Chain.from_network(Body(), torch.zeros(1, 3, 28, 20)).costs


class Pair(Body):
    def forward(self, x):
        return super().forward(x), x


class Named(Body):
    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Odd(Exception):
    pass


class Failing(Body):
    def forward(self, x):
        raise Odd("of its own\nkind")


class Reading(Body):
    """Tries to read a pixel, and has a number at hand where it cannot."""

    def forward(self, x):
        try:
            factor = x[0, 0, 0, 0].item()
        except RuntimeError:
            factor = 1.0
        return super().forward(x) * factor


class Quantised(nn.Module):
    __module__ = "torch.ao.nn.quantized"


class Brightness(Body):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


class Auxiliary(Body):
    def forward(self, x):
        y = super().forward(x)
        return y + x.mean() if self.training else y


class Sized(Body):
    def forward(self, x):
        return super().forward(x) if x.shape[-1] < 24 else super().forward(x[..., ::2])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Pair(), r"Pair cannot be sliced: it does not return one tensor but a tuple; wrap it .*self.network\(x\)\[0\]"),
        (Named(), r"one tensor but a dict of logits, features; wrap it .*self.network\(x\)\['logits'\]"),
        (Body().to(torch.bfloat16), "stem.weight is bfloat16, but images are float32; .*network.float"),
        (Body().double(), "stem.weight is float64"),
        (torch.compile(Body()), "Module cannot be sliced: it is compiled; give the network without torch.compile"),
        (Failing(), "Failing cannot be sliced: .* Odd: of its own kind"),
        (Reading(), "Reading cannot be sliced: .*meta"),
        (nn.Sequential(Body(), Quantised()), "1 is quantised .Quantised.; give the network in float32"),
        (Brightness(), "Brightness cannot be sliced: .* without data"),
        (Auxiliary(), "Auxiliary cannot be sliced: its forward takes another way in training mode"),
        (nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConv2d(8, 3)), "lazy parameters"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "Sequential is no chain"),
        (nn.Conv2d(4, 8, 3), "Conv2d cannot be sliced: .* another input size"),
    ],
)
def test_refusals_in_one_line(network: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert "\n" not in str(refusal.value)


def test_hook_on_a_container_that_changes_the_output_is_refused() -> None:
    network = Body()
    network.blocks.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(UserError, match=r"Body cannot be sliced: .* hook on a container"):
        Chain.from_network(network, torch.zeros(1, 3, 16, 16))


def test_input_for_which_the_network_branches_off_is_refused() -> None:
    network = Sized().eval()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert torch.equal(chain.block(0, 6)(torch.ones(1, 3, 20, 20)), network(torch.ones(1, 3, 20, 20)))
    with pytest.raises(UserError, match="another size"):
        chain.block(0, 6)(torch.ones(1, 3, 32, 32))


def test_blocks_outside_the_chain_are_refused() -> None:
    chain = Chain.from_network(Body(), torch.zeros(1, 3, 16, 16))
    for start, stop in ((-1, 2), (2, 2), (3, 7)):
        with pytest.raises(UserError, match=r"Body has nodes 0 to 5: block"):
            chain.block(start, stop)
